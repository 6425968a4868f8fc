"""Which episodes train and which are held out to measure on."""

from __future__ import annotations

import numpy as np

from worldmodel.data.store import EpisodeStore

HELD_OUT_EVERY = 20  # one episode in twenty, the twentieth


def held_out_episodes(store: EpisodeStore) -> list[int]:
    """Indexes of the episodes that no training window is drawn from.

    Every twentieth by the number under which it was appended, so that neither growth nor a skipped shard moves an
    episode from one side to the other; the last one where there is none of these yet; none in a store of one."""
    return np.flatnonzero(_held_out(store)).tolist()


def train_episodes(store: EpisodeStore) -> list[int]:
    """Indexes of all other episodes."""
    return np.flatnonzero(~_held_out(store)).tolist()


def _held_out(store: EpisodeStore) -> np.ndarray:
    held_out = store.numbers % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    if len(store) > 1 and not held_out.any():
        held_out[-1] = True
    return held_out
