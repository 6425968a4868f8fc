"""Random windows of episodes as batches of torch tensors, copied straight from the memory maps."""

from __future__ import annotations

import numpy as np
import torch

from worldmodel.data.layout import VALUES
from worldmodel.data.split import held_out_episodes, train_episodes
from worldmodel.data.store import EpisodeStore, StoreDamaged
from worldmodel.interface import BLOBS, SEMANTIC

SPLITS = {"train": train_episodes, "held_out": held_out_episodes}
REDRAWS = 1000  # how often a window in a damaged shard is drawn again before giving up


class WindowSampler:
    """Draws windows of `length` actions and `length + 1` observations that never leave their episode.

    A step is drawn uniformly over all steps of all episodes of the split, and the window is laid around it, moved inside
    the episode where it would stick out. So long episodes weigh as their number of steps, and both ends of an episode
    are seen about as often as its middle: with uniform starts, the transition that terminates an episode would be in one
    window where others are in `length`. An episode shorter than the window is given from its start and padded.

    Args:
        store: episodes; those appended later (by this process, or seen by `store.refresh()`) are drawn from the next
            batch on.
        length: actions T per window.
        batch_size: windows B per batch.
        seed: everything drawn follows from it; nothing else is random.
        split: "train" or "held_out", see `split.py`.
        recent_fraction: share of every batch (its first rows, rounded) that is drawn from the newest
            `recent_episodes` episodes of the split alone.
        oldest_steps: draw from the oldest episodes alone, those with the store's first so many steps; None draws from all.
    """

    def __init__(
        self,
        store: EpisodeStore,
        length: int,
        batch_size: int,
        seed: int,
        split: str = "train",
        recent_fraction: float = 0.0,
        recent_episodes: int = 0,
        oldest_steps: int | None = None,
    ):
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}; it must be one of {sorted(SPLITS)}")
        if length < 1 or batch_size < 1:
            raise ValueError(f"a batch needs at least one window of one action, got {batch_size} windows of {length}")
        if not 0.0 <= recent_fraction <= 1.0 or recent_episodes < 0:
            raise ValueError(
                f"recent_fraction={recent_fraction} must be in [0, 1], recent_episodes={recent_episodes} >= 0"
            )
        if recent_fraction > 0 and recent_episodes == 0:
            raise ValueError(f"recent_fraction={recent_fraction} needs recent_episodes > 0")
        self.store = store
        self.features, self.blobs = store.features, store.blobs
        self.length = length
        self.batch_size = batch_size
        self.split = split
        self.recent_fraction = recent_fraction
        self.recent_episodes = recent_episodes
        self.oldest_steps = oldest_steps
        self._generator = np.random.Generator(np.random.PCG64(seed))
        self._version = -1

    def sample(self, batch_size: int | None = None) -> dict[str, torch.Tensor]:
        """One batch. T is `length`, B is `batch_size`; float32 unless said otherwise.

        Every camera uint8 `[B, T+1, H, W, 3]`; `state` `[B, T+1, S]` and `privileged` `[B, T+1, P]` where the interface
        has them; `action` `[B, T, A]`; `previous_action` `[B, T+1, A]`, the action that led to each observation (zeros
        before an episode's first); `reward` `[B, T]`; `terminated` `[B, T]`, 1 at the transition that ended its episode
        for good; `valid` `[B, T]`, 0 on padding (there the last observation repeats, actions and rewards are 0);
        `semantic` `[B, T+1, K, E]` where the store has a cache of features (`store.features`), and `blobs` `[B, T+1, 2 P]`
        where it has one of those (`store.blobs`);
        `episode` and `start` int64 `[B]`; `recent` bool `[B]`, rows drawn from the newest episodes alone.

        Raises ValueError where the split has no episodes, StoreDamaged where no readable one is found."""
        count = self.batch_size if batch_size is None else batch_size
        self._follow_store()
        layout, length = self.store.layout, self.length
        episodes, starts, maps, first = self._draw_readable(count)
        steps = np.minimum(self._lengths[episodes], length)
        pictures = {
            key: torch.empty((count, length + 1, *shape), dtype=torch.uint8)
            for key, shape in layout.interface.cameras.items()
        }
        values = np.empty((count, length + 2, *layout.shapes[VALUES]), np.float32)  # one row before the window
        targets = [(key, tensor.numpy()) for key, tensor in pictures.items()] + [(VALUES, values[:, 1:])]
        ends = (steps + 1).tolist()
        for row, (arrays, begin, end) in enumerate(zip(maps, (first + starts).tolist(), ends, strict=True)):
            for key, target in targets:
                target[row, :end] = arrays[key][begin : begin + end]
                if end <= length:
                    target[row, end:] = target[row, end - 1]
            values[row, 0] = arrays[VALUES][begin - 1]
        values[starts == 0, 0] = 0.0  # nothing precedes an episode; what was read is the end of another one
        if self.features is not None:
            pictures[SEMANTIC] = self._semantic(episodes, starts, steps)
        if self.blobs is not None:
            windows = zip(episodes.tolist(), starts.tolist(), (starts + steps + 1).tolist(), strict=True)
            pictures[BLOBS] = self._stacked([self.blobs.window(*window) for window in windows])
        marks = self._marks(episodes, starts, steps) | {"recent": torch.from_numpy(self._recent(count))}
        return {**pictures, **self._columns(values), **marks}

    def _semantic(self, episodes: np.ndarray, starts: np.ndarray, steps: np.ndarray) -> torch.Tensor:
        """The windows' semantic tokens `[B, T+1, K, E]`."""
        maps, first = self.features.locate(episodes)
        rows = []
        for episode, arrays, begin, end in zip(episodes, maps, first + starts, steps + 1, strict=True):
            if arrays is None:
                self.features.rows(int(episode))  # raises, saying which features are missing
            rows.append(self.features.tokens({camera: array[begin : begin + end] for camera, array in arrays.items()}))
        return self._stacked(rows)

    def _stacked(self, windows: list[np.ndarray]) -> torch.Tensor:
        """Windows `[up to T+1, ...]` as float32 `[B, T+1, ...]`, the last row of each repeated to its end."""
        rows = [np.concatenate([w, w[-1:].repeat(self.length + 1 - len(w), 0)]) for w in windows]
        return torch.from_numpy(np.stack(rows).astype(np.float32))

    def state_dict(self) -> dict:
        """Where the generator stands, as plain JSON types."""
        return {"generator": self._generator.bit_generator.state}

    def load_state_dict(self, state: dict) -> None:
        """Go on drawing from where `state_dict` was taken."""
        self._generator.bit_generator.state = state["generator"]

    def _follow_store(self) -> None:
        """Look at the store's table again if episodes were added or dropped: 6 ms for 100k episodes."""
        if self._version == self.store.version:
            return
        self._episodes = np.array(SPLITS[self.split](self.store), np.int64)
        self._lengths = self.store.lengths
        if self.oldest_steps is not None:
            begins = np.cumsum(self._lengths) - self._lengths
            self._episodes = self._episodes[begins[self._episodes] < self.oldest_steps]
        self._terminated = self.store.terminated
        self._ends = np.cumsum(self._lengths[self._episodes])
        if not len(self._episodes):
            raise ValueError(
                f"{self.store.folder} has {len(self.store)} episodes and none in the split {self.split!r}: "
                "collect at least two with worldmodel collect data=<folder>"
            )
        self._version = self.store.version

    def _draw_readable(self, count: int) -> tuple[np.ndarray, np.ndarray, list, np.ndarray]:
        """Episodes and starts of `count` windows, with where their episodes lie; another for each that is damaged."""
        recent = self._recent(count)
        episodes, starts = self._draw(recent)
        for draw in range(REDRAWS):
            maps, first = self.store.locate(episodes)
            damaged = [row for row, arrays in enumerate(maps) if arrays is None]
            if not damaged:
                return episodes, starts, maps, first
            still_recent = recent[damaged] & (draw < REDRAWS // 2)  # all recent ones may be lost: then take older ones
            episodes[damaged], starts[damaged] = self._draw(still_recent)
        raise StoreDamaged(f"{REDRAWS} draws in a row fell into damaged shards: {'; '.join(self.store.problems)}")

    def _recent(self, count: int) -> np.ndarray:
        """Which rows of a batch are drawn from the newest episodes alone: the first."""
        return np.arange(count) < round(self.recent_fraction * count)

    def _draw(self, recent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Episodes and starts of one window for each entry of `recent` (bool): from the newest episodes, or from all."""
        older = max(len(self._episodes) - self.recent_episodes, 0)
        low = recent * self._ends[older - 1] if older else np.zeros(len(recent), np.int64)
        step = self._generator.integers(low, self._ends[-1])
        which = np.searchsorted(self._ends, step, side="right")
        lengths = self._lengths[self._episodes[which]]
        within = step - (self._ends[which] - lengths)
        starts = np.clip(within - self.length // 2, 0, np.maximum(lengths - self.length, 0))
        return self._episodes[which], starts

    def _columns(self, values: np.ndarray) -> dict[str, torch.Tensor]:
        """Float tensors from `values` rows `[B, T+2, V]`, the first of which precedes the window."""
        columns = self.store.layout.columns
        result = {key: values[:, 1:, columns[key]] for key in ("state", "privileged") if key in columns}
        result["action"] = values[:, 1:-1, columns["action"]]
        result["previous_action"] = values[:, :-1, columns["action"]]
        result["reward"] = values[:, 1:-1, columns["reward"]][..., 0]
        return {key: torch.from_numpy(np.ascontiguousarray(array)) for key, array in result.items()}

    def _marks(self, episodes: np.ndarray, starts: np.ndarray, steps: np.ndarray) -> dict[str, torch.Tensor]:
        time = np.arange(self.length)
        valid = time < steps[:, None]
        ends = self._terminated[episodes] & (starts + steps == self._lengths[episodes])
        terminated = ends[:, None] & (time == steps[:, None] - 1)
        return {
            "terminated": torch.from_numpy(terminated.astype(np.float32)),
            "valid": torch.from_numpy(valid.astype(np.float32)),
            "episode": torch.from_numpy(episodes),
            "start": torch.from_numpy(starts),
        }
