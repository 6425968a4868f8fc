"""The index of a store: one checked line of JSON per episode, appended, never rewritten."""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass
class Record:
    """One episode's line in the index.

    Attributes:
        episode: the number under which it was appended, counted from 0; it never changes.
        shard: which shard holds it; row: its first row there; length: its actions T, so it has T + 1 rows.
        reward: the sum and the sum of squares of its rewards.
        crc: table name to the CRC-32 of the episode's rows.
    """

    episode: int
    shard: int
    row: int
    length: int
    terminated: bool
    truncated: bool
    reward: tuple[float, float]
    crc: dict[str, int]
    info: dict = field(default_factory=dict)

    def to_line(self) -> bytes:
        """`<crc32 of the JSON> <JSON>` and a newline: a torn or altered line is never taken for a record."""
        text = json.dumps(asdict(self), separators=(",", ":")).encode()
        return b"%08x %s\n" % (zlib.crc32(text), text)

    @classmethod
    def from_line(cls, line: bytes) -> Record | None:
        """The record in a line without its newline, or None where the line is not what was written."""
        checksum, _, text = line.partition(b" ")
        if checksum != b"%08x" % zlib.crc32(text):
            return None
        return cls(**json.loads(text))


@dataclass
class Reading:
    """What one pass over the index found.

    Attributes:
        records: (byte offset of the line, the line with its newline, record), in order.
        damaged: byte offsets of whole lines that fail their checksum and are followed by others.
        end: where the last good line ends; bytes after it are an unfinished line.
        unfinished: how many bytes follow `end`.
    """

    records: list[tuple[int, bytes, Record]]
    damaged: list[int]
    end: int
    unfinished: int


def read_index(path: Path, offset: int = 0) -> Reading:
    """Read the lines of `path` from byte `offset` on."""
    records: list[tuple[int, bytes, Record]] = []
    bad: list[int] = []
    end = position = offset
    with open(path, "rb") as file:
        file.seek(offset)
        for line in file:
            record = Record.from_line(line[:-1]) if line.endswith(b"\n") else None
            if record is None:
                bad.append(position)
            else:
                records.append((position, line, record))
                end = position + len(line)
            position += len(line)
    return Reading(records, [start for start in bad if start < end], end, position - end)


def append_line(path: Path, start: int, line: bytes) -> None:
    """Make `line` the last one, at byte `start`, and force it to disk."""
    with open(path, "r+b", buffering=0) as file:
        file.seek(start)
        write_all(file, line)
        file.truncate()
        os.fsync(file.fileno())


def cut_index(path: Path, size: int) -> None:
    """Shorten the index to `size` bytes if it is longer, and force that to disk: rows are cut only after it."""
    if path.stat().st_size > size:
        with open(path, "r+b", buffering=0) as file:
            file.truncate(size)
            os.fsync(file.fileno())


def write_all(file, data) -> None:
    """Write every byte of `data` to an unbuffered file: one call may take fewer (a disk that fills up, 2 GiB at once)."""
    rest = memoryview(data).cast("B")
    while rest:
        rest = rest[file.write(rest) :]


def sync_folder(folder: Path) -> None:
    """Make new names in `folder` survive a power cut, where the system lets a folder be synced (not on Windows)."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
