"""The one interface of everything that maps observations to actions."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

Observation = dict[str, np.ndarray]


@runtime_checkable
class Policy(Protocol):
    """A batched policy with no env inside.

    Observations are dicts of arrays with a leading batch axis: pictures uint8 `[B, H, W, 3]`, `state` float32 `[B, S]`.
    Actions are float32 `[B, A]` in [-1, 1], one-hot rows for discrete envs.
    """

    def reset(self, observation: Observation, mask: np.ndarray | None = None) -> None:
        """Forget the past of the rows where `mask` (bool `[B]`, all rows when None) is true: they start a new episode.

        `observation` tells the batch size; the same observation is passed to `act` next."""

    def act(self, observation: Observation) -> np.ndarray:
        """Read the current observation of every row, once per env step, and return float32 actions `[B, A]`."""
