"""Our own MuJoCo renderer: the picture of `env.render()` for a fiftieth of its cost, safe beside other renderers."""

from __future__ import annotations

import contextlib

import mujoco
import numpy as np

from envs.gl import process_context

QUALITIES = ("fast", "faithful", "smooth", "default")

SMALL_PICTURE = 128  # pixels; up to here coarse geometry and one sample a pixel stay within 3/255 of the full picture
_SHADOW, _REFLECTION = int(mujoco.mjtRndFlag.mjRND_SHADOW), int(mujoco.mjtRndFlag.mjRND_REFLECTION)
_OFFSCREEN = int(mujoco.mjtFramebuffer.mjFB_OFFSCREEN)
_ALL_CATEGORIES = int(mujoco.mjtCatBit.mjCAT_ALL)
_SMOOTH_SAMPLES = 4  # a pixel
_FLOOR_SPACING = 100.0  # metres between a plane's grid lines: one quad instead of thousands
_MAX_GEOMS = 2000


@contextlib.contextmanager
def _render_settings(model: mujoco.MjModel, height: int, width: int, quality: str):
    """The settings that a render context copies from the model, ours inside and the model's own again after.

    The model belongs to the env: its own `render()`, before or after, must not see ours."""
    settings, screen = model.vis.quality, model.vis.global_
    names = ("shadowsize", "offsamples", "numslices", "numstacks", "numquads")
    before = {name: getattr(settings, name) for name in names}
    buffer = screen.offwidth, screen.offheight
    planes = np.flatnonzero(model.geom_type == int(mujoco.mjtGeom.mjGEOM_PLANE))
    spacing = model.geom_size[planes, 2].copy()
    screen.offwidth, screen.offheight = width, height  # the whole buffer is cleared for every frame
    if quality != "default":
        small = max(height, width) <= SMALL_PICTURE
        settings.shadowsize = min(settings.shadowsize, 256 if small else 1024)
        if small:
            settings.offsamples = _SMOOTH_SAMPLES if quality == "smooth" else 0
            settings.numslices, settings.numstacks, settings.numquads = 8, 4, 1
        # Light is computed at vertices, so a coarse floor keeps its look only under directional lights.
        if _all_directional(model):
            model.geom_size[planes, 2] = _FLOOR_SPACING
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(settings, name, value)
        screen.offwidth, screen.offheight = buffer
        model.geom_size[planes, 2] = spacing


def _all_directional(model: mujoco.MjModel) -> bool:
    if hasattr(model, "light_type"):
        return bool(np.all(model.light_type == int(mujoco.mjtLightType.mjLIGHT_DIRECTIONAL)))
    return bool(np.all(model.light_directional))  # mujoco before 3.3.3


class Renderer:
    """Draws one model at one size.

    Args:
        model: the env's model; left as it was found.
        height, width: of the picture, in pixels.
        quality: `fast` (no shadows, no reflections), `faithful` (shadows kept, no reflections; up to 128 pixels also
            coarse geometry and one sample a pixel: within a mean absolute difference of 3/255 of the model's own
            picture), `smooth` (the same with four samples a pixel: how far an edge covers a pixel says where it is, to
            a fraction of a pixel) or `default` (the model's own settings).
        visual_options: `mjtVisFlag` to on or off.

    Raises:
        ValueError: an unknown quality.
        RenderingUnavailable: no OpenGL; the message names the package to install.
    """

    def __init__(
        self, model: mujoco.MjModel, height: int = 64, width: int = 64, quality: str = "faithful", visual_options=None
    ):
        if quality not in QUALITIES:
            raise ValueError(f"env.quality={quality!r} is not one of {', '.join(QUALITIES)}")
        self.model, self.quality = model, quality
        self._rect = mujoco.MjrRect(0, 0, width, height)
        self._pixels = np.empty((height, width, 3), np.uint8)
        self._options = mujoco.MjvOption()
        for flag, value in (visual_options or {}).items():
            self._options.flags[int(flag)] = value
        with process_context.current(), _render_settings(model, height, width, quality):
            self._scene = mujoco.MjvScene(model, _MAX_GEOMS)
            self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)

    def render(self, data: mujoco.MjData, camera: mujoco.MjvCamera) -> np.ndarray:
        """The picture of `data`, which must be up to date (mj_forward), seen by `camera`: a new uint8 [H, W, 3]."""
        if self._context is None:
            raise RuntimeError("this renderer is closed; make another")
        scene = self._scene
        mujoco.mjv_updateScene(self.model, data, self._options, None, camera, _ALL_CATEGORIES, scene)
        with process_context.current():
            if self.quality != "default":
                scene.flags[_REFLECTION] = 0
                scene.flags[_SHADOW] = self.quality != "fast"
            # All renderers share one GL context, and with it the one framebuffer that is bound: bind ours.
            mujoco.mjr_setBuffer(_OFFSCREEN, self._context)
            mujoco.mjr_render(self._rect, scene, self._context)
            mujoco.mjr_readPixels(self._pixels, None, self._rect, self._context)
        return self._pixels[::-1].copy()  # GL's first row is the bottom one

    def close(self) -> None:
        """Free the buffers, textures and meshes on the GL side; closing twice is fine."""
        if self._context is not None:
            with process_context.current():
                self._context.free()
            self._context = None
