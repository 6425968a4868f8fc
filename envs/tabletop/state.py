"""The tabletop's state as a training target: by colour, as a picture shows it."""

from __future__ import annotations

import mujoco
import numpy as np

from envs.tabletop import table
from envs.tabletop.vocabulary import COLOURS


class ByColour:
    """Reads float32 [P] of a tabletop's data, as `envs.privileged.PrivilegedState` reads that of other models.

    Which of the model's six bodies a red ball is differs from episode to episode, and no picture shows it. So the state
    is told by colour: the tool's joints; for each of eight colours how many objects have it, and the sums of their x, y
    and height; for each colour the same of zones, without height; then the tool's velocities and, for each colour, the
    sums of the objects' velocities in x and y. Zeros where a colour is absent. Places are in metres from the middle.

    Attributes:
        length: P.
        positions: how many of its leading entries are positions.
    """

    def __init__(self, model: mujoco.MjModel):
        self._model = model
        self._tool, self._each = table.joints(model)
        self.positions = self._tool + (4 + 3) * len(COLOURS)
        self.length = self.positions + self._tool + 2 * len(COLOURS)

    def __call__(self, data: mujoco.MjData) -> np.ndarray:
        """float32 [P] of `data`."""
        shown, marked = table.colours(self._model)
        places = data.qpos[self._tool :].reshape(-1, self._each)
        moving = data.qvel[self._tool :].reshape(-1, self._each)
        objects, zones = np.zeros((len(shown), 4)), np.ones((len(marked), 3))
        objects[:, 0], objects[:, 1:3], zones[:, 1:] = 1.0, places[:, :2], data.mocap_pos[:, :2]
        if self._each == 4:
            objects[:, 3] = places[:, 3]
        parts = (
            data.qpos[: self._tool],
            (shown.T @ objects).ravel(),
            (marked.T @ zones).ravel(),
            data.qvel[: self._tool],
            (shown.T @ moving[:, :2]).ravel(),
        )
        return np.concatenate(parts, dtype=np.float32)
