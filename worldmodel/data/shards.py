"""The files of a store's shards: append rows all or nothing, map them for reading, cut what no index line names."""

from __future__ import annotations

import mmap
import os
import shutil
from collections import OrderedDict
from pathlib import Path

import numpy as np

from worldmodel.data.index import sync_folder, write_all
from worldmodel.data.layout import Layout

MAPPED_FILES = 128  # a map holds a file handle, of which macOS gives 256; of one camera, 64 shards or 16 GiB at once


class Shards:
    """`folder/000000/<table>.bin`, ...: raw rows, readable with `numpy.fromfile(...).reshape(-1, *row_shape)`."""

    def __init__(self, folder: Path, layout: Layout):
        self.folder = folder
        self.layout = layout
        self._most = max(MAPPED_FILES // len(layout.shapes), 1)
        self._maps: OrderedDict[int, dict[str, np.ndarray]] = OrderedDict()
        self._writing: tuple[int, dict] | None = None

    def path(self, shard: int, table: str) -> Path:
        """The file of one table of one shard."""
        return self.folder / f"{shard:06d}" / f"{table}.bin"

    def existing(self) -> list[int]:
        """Numbers of the shard folders on disk."""
        if not self.folder.exists():
            return []
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdigit())

    def sizes(self, shard: int) -> dict[str, int]:
        """Bytes of each table's file; -1 where it is missing."""
        sizes = {}
        for table in self.layout.shapes:
            path = self.path(shard, table)
            sizes[table] = path.stat().st_size if path.exists() else -1
        return sizes

    def arrays(self, shard: int, rows: int) -> dict[str, np.ndarray]:
        """Read-only memory maps of at least `rows` rows of a shard, by table; nothing is read until it is touched.

        The least recently used maps are closed once there are more than `MAPPED_FILES`."""
        arrays = self._maps.get(shard)
        if arrays is None or len(arrays["values"]) < rows:
            arrays = {}
            for table, shape in self.layout.shapes.items():
                # numpy.memmap does the same, but resolves the path at every map, which takes five times as long
                with open(f"{self.folder}/{shard:06d}/{table}.bin", "rb", buffering=0) as file:
                    size = rows * self.layout.row_bytes(table)
                    mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
                arrays[table] = np.ndarray((rows, *shape), self.layout.dtypes[table], mapped)
            self._maps[shard] = arrays
            if len(self._maps) > self._most:
                self._maps.popitem(last=False)
        self._maps.move_to_end(shard)
        return arrays

    def write(self, shard: int, row: int, rows: dict[str, np.ndarray]) -> None:
        """Write `rows` of every table at row `row` of `shard` and force them to disk. OSError (disk full) if it can't;
        then `cut` mends."""
        files = self._files(shard)
        for table, array in rows.items():
            file = files[table]
            file.seek(row * self.layout.row_bytes(table))
            write_all(file, array)
            file.truncate()  # nothing of an earlier, longer attempt stays behind it
        for file in files.values():
            os.fsync(file.fileno())

    def cut(self, shard: int, rows: int) -> None:
        """Shorten a shard to its first `rows` rows; to none: remove it."""
        if self._writing is not None and self._writing[0] == shard and rows == 0:
            self.close_files()
        self._maps.pop(shard, None)
        if rows == 0:
            shutil.rmtree(self.folder / f"{shard:06d}", ignore_errors=True)
            return
        for table, size in self.sizes(shard).items():
            if size > (end := rows * self.layout.row_bytes(table)):
                os.truncate(self.path(shard, table), end)

    def cut_after(self, last: int) -> None:
        """Remove the shards after `last`, from the newest back."""
        for shard in reversed(self.existing()):
            if shard > last:
                self.cut(shard, 0)

    def forget(self) -> None:
        """Drop all maps."""
        self._maps.clear()

    def close_files(self) -> None:
        """Close the files being written."""
        if self._writing is not None:
            for file in self._writing[1].values():
                file.close()
            self._writing = None

    def _files(self, shard: int) -> dict:
        if self._writing is None or self._writing[0] != shard:
            self.close_files()
            folder = self.folder / f"{shard:06d}"
            folder.mkdir(parents=True, exist_ok=True)
            files = {}
            self._writing = (shard, files)
            for table in self.layout.shapes:
                path = self.path(shard, table)
                files[table] = open(path, "r+b" if path.exists() else "x+b", buffering=0)  # noqa: SIM115 (kept open)
            sync_folder(folder)
            sync_folder(self.folder)
        return self._writing[1]
