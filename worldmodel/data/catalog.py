"""Which episodes a store holds: the index on disk as a table in memory, damaged shards left out."""

from __future__ import annotations

import contextlib
import logging
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from worldmodel.data.index import Record, cut_index, read_index
from worldmodel.data.shards import Shards

log = logging.getLogger(__name__)


class StoreDamaged(RuntimeError):
    """What is on disk is not what was written; the message names the file, `EpisodeStore.problems` keeps it."""


class Catalog:
    """The index of a store, read once and extended as it grows; 100k episodes are about 25 MB on disk.

    Attributes:
        infos: every readable episode's `info`.
        shard_rows: rows that the index names in every shard, damaged ones included.
        damaged: shard to what is wrong with it.
        problems: everything found wrong, as sentences.
        end: bytes of the index up to its last good line.
        next_number: the number of the next episode to be appended.
    """

    def __init__(self, path: Path, shards: Shards):
        self.path = path
        self._shards = shards
        self._tables = list(shards.layout.shapes)
        count = len(self._tables)
        self._dtype = np.dtype(
            [
                ("number", "i8"),
                ("shard", "i8"),
                ("row", "i8"),
                ("length", "i8"),
                ("terminated", "?"),
                ("truncated", "?"),
                ("reward", "f8", (2,)),
                ("line_end", "i8"),
                ("crc", "u4", (count,)),
                ("checked", "?", (count,)),
            ]
        )
        self.problems: list[str] = []
        self.clear()

    def clear(self) -> None:
        """Forget every episode, to read the index again from its start."""
        self._entries = np.zeros(64, self._dtype)
        self._count = 0
        self._last: tuple[int, bytes] = (0, b"")
        self.infos: list[dict] = []
        self.shard_rows: dict[int, int] = {}
        self.damaged: dict[int, str] = {}
        self.end = 0
        self.next_number = 0
        self.problems.clear()

    def __len__(self) -> int:
        return self._count

    @property
    def entries(self) -> np.ndarray:
        """One entry per readable episode: a structured array (a view: `checked` is written through it)."""
        return self._entries[: self._count]

    @property
    def last_shard(self) -> int:
        """The last shard that the index names; -1 in an empty store."""
        return max(self.shard_rows, default=-1)

    def rewritten(self) -> bool:
        """Whether the last line read is no longer where it was: the writer truncated the store since."""
        start, line = self._last
        with open(self.path, "rb") as file:
            file.seek(start)
            return file.read(len(line)) != line

    def extend(self) -> tuple[int, int]:
        """Take in the lines behind `end`; returns how many records came and how many bytes follow the last good line.

        A shard whose files don't have the size that the index gives them is named and left out."""
        reading = read_index(self.path, self.end)
        for offset in reading.damaged:
            self.report(f"{self.path} has a damaged line at byte {offset}: its episode is skipped")
        added: dict[int, list[int]] = {}
        for _, _, record in reading.records:
            end = record.row + record.length + 1
            self.shard_rows[record.shard] = max(end, self.shard_rows.get(record.shard, 0))
            added.setdefault(record.shard, []).append(record.episode)
        for shard, numbers in added.items():
            if shard not in self.damaged and (reason := self._damage(shard, lines_lost=bool(reading.damaged))):
                self.damaged[shard] = reason
                self.report(
                    f"{reason}; the shard is skipped with its {len(numbers)} episodes, numbers {numbers[0]} to "
                    f"{numbers[-1]}. Restore the file from a copy to have them back"
                )
        for start, line, record in reading.records:
            self.add(record, start, line)
        return len(reading.records), reading.unfinished

    def _damage(self, shard: int, lines_lost: bool) -> str | None:
        rows = self.shard_rows[shard]
        for table, size in self._shards.sizes(shard).items():
            needed = rows * self._shards.layout.row_bytes(table)
            # The last shard may end in an episode under way, and one whose index line was lost in bytes that it named.
            may_be_longer = shard == self.last_shard or lines_lost
            if size < needed or (size > needed and not may_be_longer):
                found = "is missing" if size < 0 else f"has {size} bytes"
                return f"{self._shards.path(shard, table)} {found} where the index needs {needed}"
        return None

    def add(self, record: Record, start: int, line: bytes, checked: bool = False) -> None:
        """Take in `record`, whose `line` is at byte `start` of the index. `checked`: its rows are known to be good."""
        self._last = (start, line)
        self.end = start + len(line)
        self.next_number = record.episode + 1
        end = record.row + record.length + 1
        self.shard_rows[record.shard] = max(end, self.shard_rows.get(record.shard, 0))
        if record.shard in self.damaged:
            return
        if self._count == len(self._entries):
            self._entries = np.concatenate([self._entries, np.zeros_like(self._entries)])
        self._entries[self._count] = (
            record.episode,
            record.shard,
            record.row,
            record.length,
            record.terminated,
            record.truncated,
            record.reward,
            self.end,
            [record.crc[table] for table in self._tables],
            checked,
        )
        self.infos.append(record.info)
        self._count += 1

    def entry(self, episode: int) -> np.void:
        """The entry of one episode; IndexError where there is none."""
        if not -len(self) <= episode < len(self):
            raise IndexError(f"episode {episode} of {self.path.parent}, which has {len(self)}")
        return self.entries[episode]

    def rows(self, episode: int, table: str | None = None) -> dict[str, np.ndarray]:
        """See `EpisodeStore.rows`."""
        entry = self.entry(episode)
        shard, row, end = int(entry["shard"]), int(entry["row"]), int(entry["row"] + entry["length"] + 1)
        arrays = self._map(shard)
        result = {name: arrays[name][row:end] for name in ([table] if table else self._tables)} if arrays else {}
        for name, view in result.items():
            which = self._tables.index(name)
            if not entry["checked"][which] and zlib.crc32(view) != entry["crc"][which]:
                self._condemn(
                    shard,
                    f"{self._shards.path(shard, name)} is not what was written (checksum of episode "
                    f"number {entry['number']})",
                )
                break
            entry["checked"][which] = True
        if shard in self.damaged:
            raise StoreDamaged(f"episode {episode} can't be read: {self.damaged[shard]}")
        return result

    def locate(self, episodes: np.ndarray) -> tuple[list[dict[str, np.ndarray] | None], np.ndarray]:
        """See `EpisodeStore.locate`."""
        for episode in episodes[~self.entries["checked"][episodes].all(axis=1)]:
            with contextlib.suppress(StoreDamaged):
                self.rows(episode)
        return [self._map(shard) for shard in self.entries["shard"][episodes].tolist()], self.entries["row"][episodes]

    def _map(self, shard: int) -> dict[str, np.ndarray] | None:
        if shard in self.damaged:
            return None
        try:
            return self._shards.arrays(shard, self.shard_rows[shard])
        except (OSError, ValueError) as error:  # a file went away or shrank since the store was opened
            self._condemn(shard, f"{self._shards.path(shard, 'values').parent} can't be mapped ({error})")
            return None

    def _condemn(self, shard: int, reason: str) -> None:
        """Note that a shard was found damaged while reading; its episodes keep their indexes."""
        self.damaged[shard] = reason
        self.report(f"{reason}; its shard is no longer read. Restore the file from a copy to have it back")

    def report(self, problem: str) -> None:
        """Add to `problems` and to the log."""
        self.problems.append(problem)
        log.warning("%s", problem)

    def place(self, rows: int, shard_rows: int) -> tuple[int, int]:
        """Shard and row for the next episode of `rows` rows, in shards of about `shard_rows`. A damaged shard is left
        as it is, for whoever restores it."""
        last = self.last_shard
        row = self.shard_rows.get(last, 0)
        if last < 0 or last in self.damaged or row + rows > shard_rows:
            return last + 1, 0
        return last, row

    def settle(self, unfinished_line: int, writing: bool, expected: bool, writer_at_work: Callable[[], bool]) -> None:
        """Deal with bytes that belong to no episode: an append that was cut short, or is under way.

        When `writing` they are cut off, and reported unless `expected`; a reader reports them unless `writer_at_work()`.
        More shards than one append can leave mean that the index lost lines, and cutting would destroy whole episodes:
        a writer raises StoreDamaged then."""
        beyond, unnamed = self._unnamed()
        unnamed += unfinished_line
        if not unnamed or (not writing and writer_at_work()):
            return
        if len(beyond) > 1:
            lost = (
                f"{self.path} names no episode in shards {beyond[0]:06d} to {beyond[-1]:06d}: it lost lines, restore "
                "it from a copy"
            )
            if writing:
                raise StoreDamaged(f"{lost}; open the store for reading to use the episodes that it still names")
            self.report(lost)
            return
        if writing:
            self.cut_unnamed()
        if not expected:
            self.report(
                f"{self.path.parent} ends in an unfinished episode ({unnamed} bytes): it is "
                f"{'dropped' if writing else 'ignored'}, the {len(self)} before it are whole"
            )

    def _unnamed(self) -> tuple[list[int], int]:
        """Shards that the index does not name, and the bytes in them and at the end of the last one that it names."""
        last, size = self.last_shard, 0
        beyond = [shard for shard in self._shards.existing() if shard > last]
        for shard in beyond:
            size += sum(max(size, 0) for size in self._shards.sizes(shard).values()) or 1  # a folder alone counts too
        if last >= 0 and last not in self.damaged:
            size += sum(self._shards.sizes(last).values()) - self.shard_rows[last] * self._shards.layout.bytes_per_row()
        return beyond, size

    def cut_unnamed(self) -> None:
        """Cut off what belongs to no episode, so that the next one is appended in its place."""
        cut_index(self.path, self.end)
        last = self.last_shard
        self._shards.cut_after(last)
        if last >= 0 and last not in self.damaged:
            self._shards.cut(last, self.shard_rows[last])
