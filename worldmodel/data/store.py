"""Episodes on disk: append-only shards of memory-mapped rows, and an index that no crash can break."""

from __future__ import annotations

import contextlib
import zlib
from pathlib import Path

import numpy as np

from worldmodel.data.catalog import Catalog, StoreDamaged
from worldmodel.data.header import make_store, read_header
from worldmodel.data.index import Record, append_line, cut_index
from worldmodel.data.layout import VALUES, Layout
from worldmodel.data.lock import WriterLock, is_held
from worldmodel.data.moments import Moments
from worldmodel.data.shards import Shards
from worldmodel.interface import Interface
from worldmodel.provenance import plain

SHARD_BYTES = 256 << 20  # a shard closes about here: what one damaged file can cost, 21k frames of 64x64


class EpisodeStore:
    """A folder of episodes. One process writes, any number read; nothing is loaded before it is asked for.

    On disk: `store.json` (format, interface, meta), `index.jsonl` (one checksummed line per episode) and
    `shards/<number>/<camera>.bin`, `values.bin` (rows, see `Layout`).

    **Crashes.** `append` writes the rows, syncs them, then writes and syncs the index line: an episode exists once its
    line is whole. Whatever was cut short before that is behind every indexed byte; opening says so in `problems` and,
    when writable, cuts it off. An error while appending (a full disk, Ctrl-C) cuts it off at once.

    **Damage.** File sizes are checked on opening: a shard that is too short or too long is named in `problems` and
    skipped with all its episodes. An episode's CRC-32 (2.5 GB/s, 2.4 ms for 500 frames of 64x64) is checked when its
    first byte is about to be read, once per opened store: so opening 100 GB costs no more than reading its index, a run
    checks what it uses and only that, and nothing unchecked is ever returned. What this process appended counts as
    checked. A mismatch condemns the shard: it is named, `read` raises StoreDamaged for all its episodes, and samplers
    pass over them; `len` and indexes stay as they are, so that nothing renumbers under a running loop.
    `verify()` checks everything now.

    **Numbers.** An index runs from 0 to `len(store) - 1` over the episodes of undamaged shards. `numbers[index]` is the
    count under which the episode was appended; it never changes, and the held-out split goes by it.

    Attributes:
        folder, interface, meta: what `create` was given.
        layout: which table and column holds which key.
        version: counts up whenever episodes were added or dropped.
        problems: what opening and reading found wrong, as sentences; empty for a sound store.
        features: a `worldmodel.vision_language.FeatureCache` of these episodes, whose features samplers give along; None
            at first.
        blobs: a `worldmodel.blobs.BlobCache` of them, likewise.
    """

    def __init__(self, folder: str | Path, writable: bool = False):
        self.folder = Path(folder)
        header = read_header(self.folder)
        self.interface = Interface(**header["interface"])
        self.meta: dict = header["meta"]
        self.layout = Layout(self.interface)
        self.version = 0
        self.features = self.blobs = None
        self._shard_rows = max(header["shard_bytes"] // self.layout.bytes_per_row(), 1)
        self._shards = Shards(self.folder / "shards", self.layout)
        self._catalog = Catalog(self.folder / "index.jsonl", self._shards)
        self.problems = self._catalog.problems
        self._lock = WriterLock(self.folder / "writer.lock") if writable else None
        try:
            self._load()
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(
        cls, folder: str | Path, interface: Interface, meta: dict | None = None, shard_bytes: int = SHARD_BYTES
    ) -> EpisodeStore:
        """Make an empty store in `folder` and open it for writing. `meta` is any JSON dict (env id, seed, ...).

        Raises FileExistsError where there is a store already."""
        make_store(Path(folder), interface, meta, shard_bytes)
        return cls(folder, writable=True)

    @classmethod
    def open(cls, folder: str | Path, writable: bool = False) -> EpisodeStore:
        """Open the store in `folder`; what is wrong with it is in `problems` and logged as a warning.

        Raises FileNotFoundError where there is none, StoreLocked where another process is writing."""
        return cls(folder, writable)

    def require_interface(self, other: Interface) -> None:
        """Raise ValueError naming every field in which these episodes differ from `other` (an env's, a model's)."""
        mine, theirs = self.interface.to_dict(), other.to_dict()
        differing = [f"{key}: recorded {mine[key]}, wanted {theirs[key]}" for key in mine if mine[key] != theirs[key]]
        if differing:
            raise ValueError(
                f"the episodes in {self.folder} don't fit: {'; '.join(differing)}. Set env.* as they were "
                "recorded, or name another folder with data=<folder>"
            )

    # Reading

    def __len__(self) -> int:
        return len(self._catalog)

    @property
    def lengths(self) -> np.ndarray:
        """Actions T of every episode, int64 `[episodes]`."""
        return self._catalog.entries["length"].copy()

    @property
    def numbers(self) -> np.ndarray:
        """The count under which every episode was appended, int64 `[episodes]`; stable when shards are skipped."""
        return self._catalog.entries["number"].copy()

    @property
    def entries(self) -> np.ndarray:
        """The index as a table, one row for every episode (`Catalog.entries`): where it lies, its length and the checksums
        of its tables. Not to be written to."""
        return self._catalog.entries

    @property
    def terminated(self) -> np.ndarray:
        """Whether the last action of every episode ended it for good, bool `[episodes]`."""
        return self._catalog.entries["terminated"].copy()

    @property
    def infos(self) -> list[dict]:
        """Every episode's `info`."""
        return self._catalog.infos

    @property
    def steps(self) -> int:
        """Actions in all episodes."""
        return int(self._catalog.entries["length"].sum())

    @property
    def frames(self) -> int:
        """Observations in all episodes: one more than actions in each."""
        return self.steps + len(self)

    def read(self, episode: int, start: int = 0, stop: int | None = None) -> dict:
        """Actions `start:stop` of an episode and the `stop - start + 1` observations around them, copied.

        Keys and shapes as in `append`, so that a whole episode can be appended to another store. `terminated` and
        `truncated` are true only if the slice reaches the episode's end. Raises StoreDamaged."""
        entry = self._catalog.entry(episode)
        length = int(entry["length"])
        stop = length if stop is None else stop
        if not 0 <= start <= stop <= length:
            raise IndexError(f"steps {start}:{stop} of episode {episode}, which has {length}")
        result = self.layout.arrays(self.rows(episode), start, stop)
        result["terminated"] = bool(entry["terminated"]) and stop == length
        result["truncated"] = bool(entry["truncated"]) and stop == length
        result["info"] = dict(self._catalog.infos[episode])
        return result

    def rows(self, episode: int, table: str | None = None) -> dict[str, np.ndarray]:
        """Checked read-only views into the memory maps, `[T+1, ...]` for every table of `Layout` (or only `table`).

        Nothing is copied: copy what you keep. Raises StoreDamaged."""
        return self._catalog.rows(episode, table)

    def locate(self, episodes: np.ndarray) -> tuple[list[dict[str, np.ndarray] | None], np.ndarray]:
        """For every index in `episodes` the memory maps of its shard, table to array, and its first row there, int64.

        What samplers use: checks what was not checked before, and gives None in place of the maps of damaged shards."""
        return self._catalog.locate(episodes)

    def verify(self) -> list[str]:
        """Check the checksum of every byte now (2.5 GB/s once the disk has given them); returns `problems`."""
        for episode in range(len(self)):
            with contextlib.suppress(StoreDamaged):
                self.rows(episode)
        return self.problems

    def reward_std(self) -> float:
        """Standard deviation of the reward over all steps, from sums kept in the index; 0.0 without steps."""
        moments = Moments()
        moments.add_sums(self.steps, *self._catalog.entries["reward"].sum(axis=0))
        return float(moments.mean_std()[1])

    def privileged_stats(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of `privileged` over all observations, float32 `[P]` each.

        Reads `values.bin` only, and every episode once: later calls add what was appended since. Episodes of damaged
        shards don't count. Raises ValueError where there is nothing to count."""
        if "privileged" not in self.layout.columns:
            raise ValueError(f"{self.folder} holds no privileged state: collect with env.privileged_state=true")
        for episode in range(self._counted, len(self)):
            with contextlib.suppress(StoreDamaged):
                self._privileged.add(self.rows(episode, VALUES)[VALUES][:, self.layout.columns["privileged"]])
        self._counted = len(self)
        if self._privileged.count == 0:
            raise ValueError(f"{self.folder} has no readable episode to take statistics from")
        mean, std = self._privileged.mean_std()
        return mean.astype(np.float32), std.astype(np.float32)

    # Writing

    def append(self, episode: dict) -> int:
        """Write one episode of T actions and T+1 observations; when this returns its index, it is on disk.

        Keys: every camera uint8 `[T+1, H, W, 3]`, `state` `[T+1, S]`, `privileged` `[T+1, P]` (each where the interface
        has it), `action` `[T, A]` in [-1, 1], `reward` `[T]`, all float32; bools `terminated`, `truncated`; optionally
        `info`, a JSON dict. Raises ValueError or TypeError naming the key and step, OSError on a full disk; either way
        the store is as it was before."""
        self._require_writable("append")
        rows = self.layout.rows(episode)
        shard, row = self._catalog.place(len(rows[VALUES]), self._shard_rows)
        reward = rows[VALUES][:-1, self.layout.columns["reward"]].astype(np.float64)
        record = Record(
            self._catalog.next_number,
            shard,
            row,
            len(reward),
            bool(episode["terminated"]),
            bool(episode["truncated"]),
            (float(reward.sum()), float(np.square(reward).sum())),
            {table: zlib.crc32(array) for table, array in rows.items()},
            plain(episode.get("info") or {}),
        )
        line, start = record.to_line(), self._catalog.end
        try:
            self._shards.write(shard, row, rows)
            append_line(self._catalog.path, start, line)
        except BaseException as error:
            with contextlib.suppress(OSError):  # what stays is behind every named byte: the next append overwrites it
                self._catalog.cut_unnamed()
            if isinstance(error, OSError):
                raise OSError(
                    error.errno,
                    f"{error.strerror}: an episode of {len(reward)} steps can't be written to "
                    f"{self.folder}, which is left as it was. Free some space, or name a folder on a larger "
                    "disk with run=<folder> or data=<folder>",
                ) from error
            raise
        self._catalog.add(record, start, line, checked=True)
        self.version += 1
        return len(self) - 1

    def truncate(self, episodes: int) -> None:
        """Drop everything after the first `episodes` episodes; appending the same again gives the same bytes.

        No reader may have the dropped episodes open. Raises ValueError where the store has fewer."""
        self._require_writable("truncate")
        if not 0 <= episodes <= len(self):
            raise ValueError(
                f"{self.folder} has {len(self)} readable episodes and can't be cut back to {episodes}. "
                f"{'; '.join(self.problems)}"
            )
        entries = self._catalog.entries[:episodes]
        end = int(entries["line_end"][-1]) if episodes else 0
        last = int(entries["shard"][-1]) if episodes else -1
        # Whole shards go before the index, the rest of the last one after it: a crash in between leaves either shards
        # that the index misses or bytes that it does not name, and never touches what is kept.
        self._shards.cut_after(last)
        cut_index(self._catalog.path, end)
        self._load(truncated=True)

    def refresh(self) -> int:
        """Take in what the writer has appended since; returns how many episodes came (negative: were truncated)."""
        before = len(self)
        if self._lock is None:
            if self._catalog.rewritten():
                self._load()
            elif self._catalog.extend()[0]:
                self.version += 1
        return len(self) - before

    def close(self) -> None:
        """Give up the writer's lock and the memory maps. Also at the end of a `with` block."""
        self._shards.close_files()
        self._shards.forget()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def _load(self, truncated: bool = False) -> None:
        """Read the index from its start and settle what an append that was cut short left behind it."""
        catalog = self._catalog
        catalog.clear()
        self._shards.forget()
        self._privileged, self._counted = Moments(), 0
        self.version += 1
        if not catalog.path.exists():
            raise StoreDamaged(
                f"{catalog.path} is missing, and with it where every episode lies: restore it from a copy"
            )
        _, unfinished = catalog.extend()
        catalog.settle(
            unfinished,
            writing=self._lock is not None,
            expected=truncated,
            writer_at_work=lambda: is_held(self.folder / "writer.lock"),
        )

    def _require_writable(self, verb: str) -> None:
        if self._lock is None:
            raise PermissionError(
                f"{self.folder} is open for reading and can't {verb}: "
                f"EpisodeStore.open({str(self.folder)!r}, writable=True)"
            )
