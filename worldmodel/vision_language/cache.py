"""The features of every recorded frame, computed once and kept beside the episodes."""

from __future__ import annotations

import contextlib
import logging
import os
import time
import zlib
from collections.abc import Iterator, Mapping

import numpy as np

from worldmodel.data import EpisodeStore, StoreDamaged, StoreLocked, check_disk
from worldmodel.data.index import sync_folder, write_all
from worldmodel.data.layout import VALUES
from worldmodel.data.lock import WriterLock
from worldmodel.data.shards import Shards
from worldmodel.progress import Progress
from worldmodel.provenance import write_json
from worldmodel.vision_language.encoder import EncoderError, VisionLanguageEncoder
from worldmodel.vision_language.feature_index import FeatureIndex

log = logging.getLogger(__name__)

FORMAT = 1  # counts up when an older cache can't be read any more
DTYPE = np.dtype("<f2")
GROUP_BATCHES = 4  # encoder batches between two syncs to disk: what a kill can cost
POLL_S = 0.5  # between two looks at whether another run has filled the cache


class FeaturesMissing(RuntimeError):
    """An episode has no features, or damaged ones: `FeatureCache.fill` makes them."""


class FeatureTable:
    """One row per observation: the features of its cameras, float16 `[cameras, M, E]`; what `Shards` wants to know."""

    def __init__(self, cameras: int, tokens: int, dim: int):
        self.shapes = {VALUES: (cameras, tokens, dim)}
        self.dtypes = {VALUES: DTYPE}

    def row_bytes(self, table: str) -> int:
        """Bytes of one row."""
        return int(np.prod(self.shapes[table])) * DTYPE.itemsize


class FeatureCache:
    """The features of a store's frames by one encoder. One process fills, any number read.

    On disk: `<store>/features/<identity>/` with `features.json` (the encoder), `index.jsonl` (one checksummed line per
    episode, only ever appended to) and `shards/<number>/values.bin`, whose rows lie as those of the store's shards: a
    window is the same slice of both. Arithmetic other than float32 has a folder of its own.

    **Rounding.** Features are stored as float16, rounded to nearest. They are unit vectors: each number is within
    2^-11 of itself, and within 2^-25 where it is below 2^-14.

    **What counts.** An episode's line repeats the checksums of its pictures: features of other pictures, left from
    before the store was cut back and grew again, are not its own, are counted as missing and overwritten. A line is
    written after its rows are on disk, so a kill costs what was not yet named, a few batches.

    **Damage.** Features are checked against their CRC-32 when first touched, once per opened cache. What does not
    agree, or is cut short, is named in `problems` and counts as missing; the next `fill` encodes it again, and
    nothing else.

    Attributes:
        folder: where it lies.
        problems: what was found wrong, as sentences.
    """

    def __init__(self, store: EpisodeStore, encoder: VisionLanguageEncoder | dict):
        """`encoder`: it, or its `describe()`. Raises EncoderError for a store without pictures."""
        described = encoder if isinstance(encoder, dict) else encoder.describe()
        if not store.interface.cameras:
            raise EncoderError(f"{store.folder} has no pictures to encode: set vision_language=off")
        self.store = store
        self._described = described
        self._cameras = list(store.interface.cameras)
        precision = described["precision"]
        name = described["identity"] + ("" if precision == "float32" else f"-{precision}")
        self.folder = store.folder / "features" / name
        self.problems: list[str] = []
        self._table = FeatureTable(len(self._cameras), described["tokens"], described["dim"])
        self._shards = Shards(self.folder / "shards", self._table)
        self._row_bytes = self._table.row_bytes(VALUES)
        self._index = FeatureIndex(self.folder / "index.jsonl", store)
        self._file_rows: dict[int, int] = {}
        self.refresh()

    @property
    def row_shape(self) -> tuple[int, int]:
        """`(M, E)`."""
        return self._table.shapes[VALUES][1:]

    # Reading

    def refresh(self) -> None:
        """Take in what another process has filled since. What the store itself gained is seen without it."""
        for problem in self._index.refresh():
            self._report(problem)

    def missing(self) -> np.ndarray:
        """Indexes of the store's episodes whose features are not there, int64. Damage not yet met doesn't count."""
        return np.flatnonzero(~self._index.present())

    def rows(self, episode: int) -> dict[str, np.ndarray]:
        """Checked read-only views into the memory maps, float16 `[T+1, M, E]` by camera. Raises FeaturesMissing."""
        number = int(self.store.entries["number"][episode])
        if self._index.present()[episode]:
            line = self._index.lines[number]
            row, end = int(line["row"]), int(line["row"] + line["length"] + 1)
            mapped = self._map(int(line["shard"]), end)
            if mapped is not None and (line["checked"] or zlib.crc32(mapped[row:end]) == line["crc"]):
                self._index.lines["checked"][number] = True
                return self._by_camera(mapped[row:end])
            found = "is cut short or missing" if mapped is None else "is not what was written"
            self._index.drop(number)
            self._report(
                f"{self._shards.path(int(line['shard']), VALUES)} {found} (features of episode number {number}): they "
                "are encoded again by the next fill"
            )
        raise FeaturesMissing(
            f"episode {episode} (number {number}) of {self.store.folder} has no features by "
            f"{self._described['name']!r} in {self.folder}: FeatureCache.fill encodes what is missing"
        )

    def read(self, episode: int, start: int = 0, stop: int | None = None) -> dict[str, np.ndarray]:
        """The features of observations `start:stop` of an episode, float32 `[stop - start, M, E]` by camera, copied.

        Raises FeaturesMissing, and IndexError outside the episode."""
        rows = self.rows(episode)
        length = len(rows[self._cameras[0]])
        stop = length if stop is None else stop
        if not 0 <= start <= stop <= length:
            raise IndexError(f"observations {start}:{stop} of episode {episode}, which has {length}")
        return {camera: view[start:stop].astype(np.float32) for camera, view in rows.items()}

    def tokens(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """Features by camera, `[..., M, E]`, side by side as a frame's semantic tokens `[..., K, E]`."""
        return np.concatenate([features[camera] for camera in self._cameras], -2)

    def locate(self, episodes: np.ndarray) -> tuple[list[dict[str, np.ndarray] | None], np.ndarray]:
        """As `EpisodeStore.locate`: for every index in `episodes` the memory maps of its shard, camera to float16
        `[rows, M, E]`, and its first row there, int64. Checks what was not checked before; None where there is none."""
        numbers = self.store.entries["number"][episodes]
        known = self._index.present()[episodes]
        for episode in np.unique(episodes[known][~self._index.lines["checked"][numbers[known]]]):
            with contextlib.suppress(FeaturesMissing):
                self.rows(int(episode))
        known = self._index.present()[episodes]
        maps: list[dict[str, np.ndarray] | None] = [None] * len(numbers)
        first = np.zeros(len(numbers), np.int64)
        lines = self._index.lines[numbers[known]]
        first[known] = lines["row"]
        ends = (lines["row"] + lines["length"] + 1).tolist()
        for place, shard, end in zip(np.flatnonzero(known).tolist(), lines["shard"].tolist(), ends, strict=True):
            mapped = self._map(shard, end)
            maps[place] = None if mapped is None else self._by_camera(mapped)
        return maps, first

    def verify(self) -> list[str]:
        """Check every checksum that was not yet checked; returns `problems`."""
        present = np.flatnonzero(self._index.present())
        for episode in present[~self._index.lines["checked"][self.store.entries["number"][present]]]:
            with contextlib.suppress(FeaturesMissing):
                self.rows(int(episode))
        return self.problems

    # Filling

    def fill(self, encoder: VisionLanguageEncoder, progress: Progress | None = None) -> int:
        """Encode every readable episode of the store that has no sound features; returns how many were encoded.

        Can be stopped at any moment and called again. Where another process fills this cache, it waits until that ends,
        and takes over what is left.

        Raises:
            EncoderError: `encoder` is not the one this cache is for, or gives something that is no number.
            OSError: the disk is full or read-only; what was filled stays.
        """
        encoder.require_same(self._described, owner=str(self.folder))
        if encoder.describe()["precision"] != self._described["precision"]:
            raise EncoderError(f"{self.folder} is for {self._described['precision']}, the encoder has {encoder.dtype}")
        progress = progress or Progress(quiet=True)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = self._locked(progress)
        except OSError as error:
            raise OSError(
                error.errno, f"{error.strerror}: features can't be kept in {self.folder}. Make it writable, or name "
                "a copy of the episodes with data=<folder>"
            ) from error  # fmt: skip
        try:
            self._begin()
            return self._fill(encoder, progress)
        finally:
            lock.close()

    def _locked(self, progress: Progress) -> WriterLock:
        told = False
        while True:
            try:
                return WriterLock(self.folder / "writer.lock")
            except StoreLocked as error:
                if not told:
                    progress.line(f"Another run fills the same features; waiting for it ({str(error).split(':')[0]})")
                    told = True
                time.sleep(POLL_S)

    def _begin(self) -> None:
        """Write the header, take in what others filled, and check all of it."""
        header = {
            "format": FORMAT,
            "encoder": self._described,
            "cameras": self._cameras,
            "tables": {VALUES: {"dtype": DTYPE.str, "row_shape": list(self._table.shapes[VALUES])}},
        }
        write_json(self.folder / "features.json", header)
        self._index.path.touch()
        sync_folder(self.folder)
        self.refresh()
        self.verify()

    def _fill(self, encoder: VisionLanguageEncoder, progress: Progress) -> int:
        missing = self.missing()
        if not len(missing):
            return 0
        lengths = self.store.lengths
        frames, done = int((lengths[missing] + 1).sum()), 0
        check_disk(self.folder, frames * self._row_bytes, "data=<a copy of the episodes on a larger disk>")
        present = self.store.frames - frames
        with progress.phase("features", present + frames, "frames", start=present) as bar:
            for group in self._groups(missing, encoder.batch_size * GROUP_BATCHES):
                self._write({episode: features for episode, features in self._encode(group, encoder)})
                bar.advance(sum(len(pictures[0]) for pictures in group.values()))
                done += len(group)
        return done

    def _groups(self, missing: np.ndarray, size: int) -> Iterator[dict[int, list[np.ndarray]]]:
        """Episodes and their pictures, one array per camera, gathered until they have `size` pictures."""
        group: dict[int, list[np.ndarray]] = {}
        pictures = 0
        for episode in missing.tolist():
            try:
                group[episode] = [self.store.rows(episode, camera)[camera] for camera in self._cameras]
            except StoreDamaged:
                continue  # the store names it; without pictures there is nothing to encode
            pictures += len(group[episode][0]) * len(self._cameras)
            if pictures >= size:
                yield group
                group, pictures = {}, 0
        if group:
            yield group

    def _encode(self, group: dict[int, list[np.ndarray]], encoder) -> Iterator[tuple[int, np.ndarray]]:
        """Episodes and their rows, float16 `[T+1, cameras, M, E]`. Each by itself: arithmetic rounds by how many pictures
        there are at once, and what is encoded again after a kill has to be the same."""
        for episode, pictures in group.items():
            features = np.stack([encoder.encode_images(images).cpu().numpy() for images in pictures], 1).astype(DTYPE)
            if not np.isfinite(features).all():
                raise EncoderError(
                    f"{encoder.name} gives no numbers for pictures of episode {episode}: is {encoder.dtype} too "
                    "narrow for it? load it in float32"
                )
            yield episode, features

    def _write(self, group: dict[int, np.ndarray]) -> None:
        """Put rows on disk, then the lines that name them."""
        try:
            with contextlib.ExitStack() as files:
                opened: dict[int, object] = {}
                for episode, features in group.items():
                    entry = self.store.entries[episode]
                    shard = int(entry["shard"])
                    if shard not in opened:
                        opened[shard] = files.enter_context(self._open(shard))
                    opened[shard].seek(int(entry["row"]) * self._row_bytes)
                    write_all(opened[shard], features)
                for file in opened.values():
                    os.fsync(file.fileno())
            self._index.append(group)
        except OSError as error:
            raise OSError(
                error.errno, f"{error.strerror}: features can't be written to {self.folder}; those written before "
                "are kept. Free some space and start again"
            ) from error  # fmt: skip

    def _open(self, shard: int):
        path = self._shards.path(shard, VALUES)
        new = not path.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "x+b" if new else "r+b", buffering=0)  # noqa: SIM115 (closed by the caller's stack)
        if new:
            sync_folder(path.parent)
            sync_folder(path.parent.parent)
        return file

    def _map(self, shard: int, end: int) -> np.ndarray | None:
        """Rows of a shard, at least to `end`, float16 `[rows, cameras, M, E]`; None where its file is shorter."""
        if end > self._file_rows.get(shard, 0):
            self._file_rows[shard] = max(self._shards.sizes(shard)[VALUES], 0) // self._row_bytes
        if end > self._file_rows[shard]:
            return None
        try:
            return self._shards.arrays(shard, self._file_rows[shard])[VALUES]
        except (OSError, ValueError):  # the file went away or shrank since
            del self._file_rows[shard]
            return None

    def _by_camera(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        return {camera: rows[:, column] for column, camera in enumerate(self._cameras)}

    def _report(self, problem: str) -> None:
        self.problems.append(problem)
        log.warning("%s", problem)
