"""Which episodes a feature cache holds: one checked line each, and whether they are of the store's present pictures."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from worldmodel.data import EpisodeStore
from worldmodel.data.index import Record, append_line, read_index
from worldmodel.data.layout import VALUES


class FeatureIndex:
    """`index.jsonl` of a feature cache, only ever appended to: the last line of an episode counts.

    A line is the store's own record of the episode, with the checksum of its features, and beside it those of its
    pictures. So features left from before the store was cut back and grew again are not taken for another episode's.

    Attributes:
        path: the file.
        lines: by the number under which the store appended the episode: `present`, `checked`, `shard`, `row`, `length`,
            `pictures` (a checksum per camera), `crc`.
    """

    def __init__(self, path: Path, store: EpisodeStore):
        self.path = path
        self.store = store
        tables, cameras = list(store.layout.shapes), list(store.interface.cameras)
        self._columns = [tables.index(camera) for camera in cameras]
        self._dtype = np.dtype(
            [
                ("present", "?"),
                ("checked", "?"),
                ("shard", "i8"),
                ("row", "i8"),
                ("length", "i8"),
                ("pictures", "u4", (len(cameras),)),
                ("crc", "u4"),
            ]
        )
        self._clear()

    def refresh(self) -> list[str]:
        """Take in lines that were appended since, by anyone; returns what is wrong with them, as sentences."""
        if not self.path.exists():
            return []
        if self.path.stat().st_size < self._end:  # somebody made it anew
            self._clear()
        reading = read_index(self.path, self._end)
        for _, _, record in reading.records:
            self._take(record, checked=False)
        self._end = reading.end
        return [
            f"{self.path} has a damaged line at byte {offset}: its episode is encoded again"
            for offset in reading.damaged
        ]

    def append(self, features: dict[int, np.ndarray]) -> None:
        """Name episodes (index in the store to rows as written), in one move; their rows are on disk already."""
        records = [self._record(self.store.entries[episode], rows) for episode, rows in features.items()]
        lines = b"".join(record.to_line() for record in records)
        append_line(self.path, self._end, lines)
        self._end += len(lines)
        for record in records:
            self._take(record, checked=True)

    def drop(self, number: int) -> None:
        """Forget an episode's line: its features are not what was written."""
        self.lines["present"][number] = False
        self._changes += 1

    def present(self) -> np.ndarray:
        """Which of the store's episodes have features of their very pictures, bool `[episodes]`."""
        state = (self.store.version, self._changes)
        if self._seen[0] != state:
            entries = self.store.entries
            present = entries["number"] < len(self.lines)
            lines = self.lines[entries["number"][present]]
            same = lines["present"] & (lines["pictures"] == entries["crc"][present][:, self._columns]).all(1)
            for key in ("shard", "row", "length"):
                same &= lines[key] == entries[key][present]
            present[present] = same
            self._seen = (state, present)
        return self._seen[1]

    def _clear(self) -> None:
        self.lines = np.zeros(0, self._dtype)
        self._end = 0
        self._changes = 0
        self._seen: tuple[tuple, np.ndarray] = ((), np.zeros(0, bool))

    def _record(self, entry: np.void, rows: np.ndarray) -> Record:
        return Record(
            int(entry["number"]),
            int(entry["shard"]),
            int(entry["row"]),
            int(entry["length"]),
            bool(entry["terminated"]),
            bool(entry["truncated"]),
            tuple(entry["reward"].tolist()),
            {VALUES: zlib.crc32(rows)},
            {"pictures": entry["crc"][self._columns].tolist()},
        )

    def _take(self, record: Record, checked: bool) -> None:
        if record.episode >= len(self.lines):
            more = np.zeros(max(record.episode + 1 - len(self.lines), len(self.lines), 64), self._dtype)
            self.lines = np.concatenate([self.lines, more])
        pictures: Sequence[int] = record.info["pictures"]
        place = (record.shard, record.row, record.length)
        self.lines[record.episode] = (True, checked, *place, pictures, record.crc[VALUES])
        self._changes += 1
