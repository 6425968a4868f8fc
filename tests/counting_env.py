"""Envs whose every number can be foretold, for tests of pairing, repeats, vectors and data."""

from __future__ import annotations

from typing import ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

LENGTH = 12


class CountingEnv(gymnasium.Env):
    """Frames and state tell the step number and the last action; rewards are the action taken.

    `observation[t]` shows step t and action[t-1] (0 at the start); `reward[t]` is action[t]. With one action in [-1,
    1]: pixel channel 0 is the step number, channel 1 the last action as 100 x (action + 1), channel 2 counts the
    resets; the frame is one colour, so that resizing keeps it. Terminates after `length` steps.

    Args:
        length: steps to termination.
        size: of the frame, in pixels.
    """

    metadata: ClassVar[dict] = {"render_modes": [], "render_fps": 10}

    def __init__(self, length: int = LENGTH, size: int = 16):
        self.length, self._size = length, size
        frame = spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.observation_space = spaces.Dict({"frame": frame, "count": spaces.Box(-np.inf, np.inf, (2,), np.float32)})
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self._resets = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._step, self._action = 0, 0.0
        self._resets += 1
        return self._observe(), {}

    def step(self, action):
        self._step, self._action = self._step + 1, float(action[0])
        return self._observe(), self._action, self._step >= self.length, False, {}

    def _observe(self):
        frame = np.empty((self._size, self._size, 3), np.uint8)
        frame[:] = self._step, round(100 * (self._action + 1)), self._resets
        return {"frame": frame, "count": np.array([self._step, self._action], np.float32)}


def read_frame(image: np.ndarray) -> tuple[int, float, int]:
    """(step number, last action to 0.01, resets) of a frame [H, W, 3]."""
    step, action, resets = image[0, 0].tolist()
    return step, action / 100 - 1, resets


class TwoCameraEnv(gymnasium.Env):
    """A user's own env: two cameras of different sizes, a state vector and asymmetric action bounds.

    Two actions: speed in [-1, 3], heading in [0, 2]. The state is the place they lead to; `front` brightens with x,
    `wrist` with y. Success, and termination, is x >= 20.
    """

    metadata: ClassVar[dict] = {"render_modes": [], "render_fps": 20}

    def __init__(self):
        self.observation_space = spaces.Dict(
            {
                "front": spaces.Box(0, 255, (48, 64, 3), np.uint8),
                "joints": spaces.Box(-100, 100, (2,), np.float64),
                "wrist": spaces.Box(0, 255, (24, 24, 3), np.uint8),
            }
        )
        self.action_space = spaces.Box(np.array([-1, 0], np.float32), np.array([3, 2], np.float32))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._place = self.np_random.uniform(-1, 1, size=2)
        return self._observe(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self._place = self._place + action
        reached = bool(self._place[0] >= 20)
        return self._observe(), float(action[0]), reached, False, {"success": reached}

    def _observe(self):
        front, wrist = np.clip(100 + 5 * self._place, 0, 255).astype(np.uint8)
        return {
            "front": np.full((48, 64, 3), front, np.uint8),
            "joints": self._place.copy(),
            "wrist": np.full((24, 24, 3), wrist, np.uint8),
        }


for _name, _env, _limit in (("Counting", CountingEnv, None), ("TwoCamera", TwoCameraEnv, 30)):
    if f"test/{_name}-v0" not in gymnasium.registry:
        gymnasium.register(f"test/{_name}-v0", entry_point=_env, max_episode_steps=_limit)
