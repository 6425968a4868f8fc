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
        objects, zones = np.zeros((len(COLOURS), 4)), np.zeros((len(COLOURS), 3))
        speeds = np.zeros((len(COLOURS), 2))
        shown, marked = table.colours(self._model)
        places = data.qpos[self._tool :].reshape(-1, self._each)
        moving = data.qvel[self._tool :].reshape(-1, self._each)
        for i, colour in enumerate(shown):
            if colour >= 0:
                height = places[i, 3] if self._each == 4 else 0.0
                objects[colour] += 1.0, places[i, 0], places[i, 1], height
                speeds[colour] += moving[i, :2]
        for i, colour in enumerate(marked):
            if colour >= 0:
                zones[colour] += 1.0, *data.mocap_pos[i, :2]
        tool = data.qpos[: self._tool], data.qvel[: self._tool]
        parts = tool[0], objects.ravel(), zones.ravel(), tool[1], speeds.ravel()
        return np.concatenate(parts, dtype=np.float32)
