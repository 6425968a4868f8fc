"""Batches to imitate: one observation, its instruction, and the actions that follow it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldmodel.data import EpisodeStore, StoreDamaged, held_out_episodes, train_episodes
from worldmodel.data.layout import VALUES
from worldmodel.interface import SEMANTIC

SPLITS = {"train": train_episodes, "held_out": held_out_episodes}
REDRAWS = 1000  # how often a step in a damaged shard is drawn again before giving up


@dataclass(frozen=True)
class Chunks:
    """B steps of demonstrations.

    Attributes:
        observation: pictures uint8 `[B, H, W, 3]`, `state [B, S]`, `semantic [B, K, E]` where features are cached.
        sentences: the B instructions.
        actions: `[B, H, A]`, from the one taken after the observation on; zeros on padding.
        mask: `[B, H]`, 0 behind the episode's end.
        episode, step: int64 `[B]`, where the observations are.
    """

    observation: dict[str, Tensor]
    sentences: list[str]
    actions: Tensor
    mask: Tensor
    episode: Tensor
    step: Tensor


class ChunkSampler:
    """Draws steps uniformly over all steps of the chosen episodes, with the chunk of actions that follows each.

    Args:
        store: demonstrations, with `store.features` where the encoder's tokens are cached.
        chunk: H.
        batch_size: B.
        seed: everything drawn follows from it.
        split: `train` or `held_out`, see `worldmodel.data.split`.
        instruction: of episodes that tell none; None makes these an error.
        successful: leave out episodes that say that they failed.

    Raises:
        ValueError: no episode is left, or one has no instruction.
    """

    def __init__(
        self,
        store: EpisodeStore,
        chunk: int,
        batch_size: int,
        seed: int,
        split: str = "train",
        instruction: str | None = None,
        successful: bool = True,
    ):
        self.store, self.chunk, self.batch_size = store, chunk, batch_size
        self.episodes = np.array(demonstrations(store, split, successful), np.int64)
        self._sentences = {int(i): instruction_of(store, int(i), instruction) for i in self.episodes}
        self._lengths = store.lengths
        self._ends = np.cumsum(self._lengths[self.episodes])
        self._generator = np.random.Generator(np.random.PCG64(seed))

    def sample(self) -> Chunks:
        """One batch.

        Raises:
            StoreDamaged: no readable step is found.
        """
        episodes, steps = self._draw(self.batch_size)
        for _ in range(REDRAWS):
            maps, first = self.store.locate(episodes)
            damaged = [row for row, arrays in enumerate(maps) if arrays is None]
            if not damaged:
                return self._read(episodes, steps, maps, first)
            episodes[damaged], steps[damaged] = self._draw(len(damaged))
        raise StoreDamaged(f"{REDRAWS} draws in a row fell into damaged shards: {'; '.join(self.store.problems)}")

    def _draw(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        place = self._generator.integers(self._ends[-1], size=count)
        which = np.searchsorted(self._ends, place, side="right")
        episodes = self.episodes[which]
        return episodes, place - (self._ends[which] - self._lengths[episodes])

    def _read(self, episodes: np.ndarray, steps: np.ndarray, maps: list, first: np.ndarray) -> Chunks:
        layout, rows = self.store.layout, first + steps
        interface, count = layout.interface, len(episodes)
        observation = {
            key: torch.from_numpy(np.stack([arrays[key][row] for arrays, row in zip(maps, rows, strict=True)]))
            for key in interface.cameras
        }
        actions = np.zeros((count, self.chunk, interface.action_dim), np.float32)
        mask = np.zeros((count, self.chunk), np.float32)
        left = np.minimum(self._lengths[episodes] - steps, self.chunk)
        for place, (arrays, row, length) in enumerate(zip(maps, rows, left, strict=True)):
            actions[place, :length] = arrays[VALUES][row : row + length, layout.columns["action"]]
            mask[place, :length] = 1.0
        if interface.state_dim:
            column = layout.columns["state"]
            states = np.stack([arrays[VALUES][row, column] for arrays, row in zip(maps, rows, strict=True)])
            observation["state"] = torch.from_numpy(states)
        if self.store.features is not None:
            observation[SEMANTIC] = self._semantic(episodes, steps)
        return Chunks(
            observation,
            [self._sentences[episode] for episode in episodes.tolist()],
            torch.from_numpy(actions),
            torch.from_numpy(mask),
            torch.from_numpy(episodes),
            torch.from_numpy(steps),
        )

    def _semantic(self, episodes: np.ndarray, steps: np.ndarray) -> Tensor:
        """The encoder's tokens of the observations, `[B, K, E]`."""
        features = self.store.features
        maps, first = features.locate(episodes)
        tokens = []
        for episode, arrays, row in zip(episodes.tolist(), maps, first + steps, strict=True):
            if arrays is None:
                features.rows(episode)  # raises, saying which features are missing
            tokens.append(features.tokens({camera: array[row] for camera, array in arrays.items()}))
        return torch.from_numpy(np.stack(tokens).astype(np.float32))


def demonstrations(store: EpisodeStore, split: str = "train", successful: bool = True) -> list[int]:
    """Indexes of a split's episodes, without those that say that they failed if only `successful` ones count.

    Raises:
        ValueError: none is left.
    """
    found = SPLITS[split](store)
    kept = [i for i in found if not (successful and store.infos[i].get("success") is False)]
    if not kept:
        why = "all of them failed: set successful=false to imitate them" if found else "collect more than one"
        raise ValueError(f"{store.folder} has no demonstrations in the split {split!r} ({len(found)} episodes): {why}")
    return kept


def instruction_of(store: EpisodeStore, episode: int, default: str | None = None) -> str:
    """What was asked for in an episode.

    Raises:
        ValueError: it does not say, and there is no `default`.
    """
    said = store.infos[episode].get("instruction", default)
    if said is None:
        raise ValueError(
            f"episode {episode} of {store.folder} tells no instruction: say what it demonstrates with "
            'instruction="<a sentence>"'
        )
    return said
