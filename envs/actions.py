"""Maps actions in [-1, 1] to whatever an env takes."""

from __future__ import annotations

import gymnasium
import numpy as np
from gymnasium import spaces


class ActionMap:
    """From a float32 vector in [-1, 1] to an env's own action.

    A Box is reached by a straight line from -1 (its lower bound) to 1 (its upper bound), element by element, and may be
    asymmetric; a Discrete space by the largest entry of a vector with one entry per choice.

    Attributes:
        length: entries of the vector, A.
        discrete: the env takes one of A choices.
        neutral: float32 [A], the action closest to physical zero (Box) or the first choice (Discrete): "hold still".

    Raises:
        TypeError: a space of another kind, or a Box of integers.
        ValueError: a Box with an infinite bound, which no straight line reaches.
    """

    def __init__(self, space: gymnasium.Space):
        self.discrete = isinstance(space, spaces.Discrete)
        if self.discrete:
            self.length, self._first = int(space.n), int(space.start)
            self.neutral = np.eye(self.length, dtype=np.float32)[0]
            return
        if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
            raise TypeError(
                f"actions of the kind {space} are not supported: they must be a Box of floats or Discrete. "
                "Wrap the env with gymnasium.wrappers.TransformAction"
            )
        if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
            raise ValueError(
                f"the env's action bounds are not finite (low {space.low}, high {space.high}), so [-1, 1] can't be "
                "mapped to them: give its action_space real bounds, or wrap it with gymnasium.wrappers.TransformAction"
            )
        self._shape, self._dtype = space.shape, space.dtype
        self._low = space.low.astype(np.float64).ravel()
        self._high = space.high.astype(np.float64).ravel()
        self._half = (self._high - self._low) / 2
        self.length = self._low.size
        zero = np.clip(0.0, self._low, self._high)
        self.neutral = ((zero - self._low) / np.where(self._half > 0, self._half, 1) - 1).astype(np.float32)

    def __call__(self, action: np.ndarray):
        """The env's action for `action` [A]; entries outside [-1, 1] count as the bound.

        Raises:
            ValueError: a wrong shape, or an entry that is not a number."""
        action = np.asarray(action, np.float64)
        if action.shape != (self.length,):
            raise ValueError(f"an action of shape {action.shape} where the env takes ({self.length},)")
        if np.isnan(action).any():
            raise ValueError(
                f"an action with an entry that is not a number: {action}; the policy that gave it has diverged"
            )
        if self.discrete:
            return self._first + int(action.argmax())
        physical = self._low + (np.clip(action, -1, 1) + 1) * self._half
        return np.clip(physical, self._low, self._high).astype(self._dtype).reshape(self._shape)

    def inverse(self, own) -> np.ndarray:
        """The action in [-1, 1], float32 [A], that is the env's `own` one; outside of its bounds, the bound."""
        if self.discrete:
            return np.eye(self.length, dtype=np.float32)[int(own) - self._first]
        share = (np.asarray(own, np.float64).ravel() - self._low) / np.where(self._half > 0, self._half, 1)
        return np.clip(share - 1, -1, 1).astype(np.float32)
