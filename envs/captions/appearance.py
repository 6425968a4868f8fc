"""Other cameras, lights, colours and textures for a MuJoCo model, and back."""

from __future__ import annotations

import mujoco
import numpy as np

_VARIED = ("cam_pos", "cam_quat", "cam_fovy", "light_dir", "light_diffuse", "geom_rgba", "geom_matid")


class Appearance:
    """The look of one model, which is varied for a picture and put back.

    What moves and what is named keeps its colour but for a little; only the ground and the walls get any."""

    def __init__(self, model: mujoco.MjModel):
        self.model = model
        self._headlight = model.vis.headlight.ambient.copy()
        self._before: dict[str, np.ndarray] = {}
        still = model.body_weldid[model.geom_bodyid] == 0
        mocap = model.body_mocapid[model.geom_bodyid] >= 0
        self._ground = np.flatnonzero(still & ~mocap)
        self._materials = [i for i in range(model.nmat) if model.material(i).name.startswith("ground")]

    def vary(self, rng: np.random.Generator) -> None:
        """Draw another look; `mj_forward` afterwards moves cameras and lights."""
        model = self.model
        self._before = {name: getattr(model, name).copy() for name in _VARIED}
        self._headlight = model.vis.headlight.ambient.copy()
        distance = np.linalg.norm(model.cam_pos, axis=1, keepdims=True)
        model.cam_pos += 0.006 * distance * rng.normal(size=model.cam_pos.shape)
        model.cam_quat += 0.004 * rng.normal(size=model.cam_quat.shape)
        model.cam_quat /= np.linalg.norm(model.cam_quat, axis=1, keepdims=True)
        model.cam_fovy *= rng.uniform(0.98, 1.06)
        model.light_dir += 0.2 * rng.normal(size=model.light_dir.shape)
        model.light_dir /= np.linalg.norm(model.light_dir, axis=1, keepdims=True)
        model.light_diffuse *= rng.uniform(0.6, 1.3)
        model.vis.headlight.ambient *= rng.uniform(0.75, 1.15)
        colours = model.geom_rgba[:, :3]
        colours += 0.03 * rng.normal(size=colours.shape)
        ground = rng.uniform(0.1, 0.8) + 0.05 * rng.normal(size=3)  # greyish: objects have the colours
        for geom in self._ground:
            model.geom_rgba[geom, :3] = ground + 0.1 * rng.normal()
        if self._materials and rng.random() < 0.5:
            model.geom_matid[self._ground[0]] = self._materials[int(rng.integers(len(self._materials)))]
        np.clip(colours, 0, 1, out=colours)

    def restore(self) -> None:
        """Put the look back."""
        for name, value in self._before.items():
            getattr(self.model, name)[:] = value
        self.model.vis.headlight.ambient[:] = self._headlight
