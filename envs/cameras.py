"""Which camera a MuJoCo env is seen by: the env's own view, or a camera named in its model."""

from __future__ import annotations

import mujoco
import numpy as np


def named_camera(model: mujoco.MjModel, name: str) -> mujoco.MjvCamera:
    """The model's camera `name`, or the one with that number.

    Raises:
        ValueError: the model has no such camera; the message lists those it has.
    """
    names = [model.camera(i).name or str(i) for i in range(model.ncam)]
    if name not in names and not (str(name).isdigit() and int(name) < model.ncam):
        raise ValueError(
            f"no camera {name!r} in this model; env.cameras takes: {', '.join(names) or 'none, it has no cameras'}"
        )
    camera = mujoco.MjvCamera()
    camera.type = mujoco.mjtCamera.mjCAMERA_FIXED.value
    camera.fixedcamid = names.index(name) if name in names else int(name)
    return camera


def following_view(env) -> mujoco.MjvCamera:
    """The view for a film of an unwrapped env with `model`, whose runners may leave the env's own view.

    Gymnasium's own view stands still (since 1.4, also where the model has a camera that follows): where that is so, the
    model's first camera that follows a body."""
    view = own_view(env)
    modes = (mujoco.mjtCamLight.mjCAMLIGHT_TRACK.value, mujoco.mjtCamLight.mjCAMLIGHT_TRACKCOM.value)
    following = np.flatnonzero(np.isin(env.model.cam_mode, modes))
    if len(following) and view.type == mujoco.mjtCamera.mjCAMERA_FREE:
        return named_camera(env.model, str(following[0]))
    return view


def own_view(env) -> mujoco.MjvCamera:
    """The view of `env.render()`, for an unwrapped env with `model`.

    Built-in tasks and dm_control name it (`own_camera`). A gymnasium `MujocoEnv` says it in its `mujoco_renderer`: a
    camera's number, or a free view with `default_camera_config`, looking at the middle of the geoms. Gymnasium takes
    that middle from the state at the first `render()`; we take it from the model's rest pose, so that the picture
    depends on no seed.
    """
    model = env.model
    if hasattr(env, "own_camera"):
        return named_camera(model, env.own_camera)
    viewer = getattr(env, "mujoco_renderer", None)
    number = getattr(viewer, "camera_id", None)
    if number is not None and number >= 0:
        return named_camera(model, str(number))
    camera = mujoco.MjvCamera()
    if viewer is None:
        mujoco.mjv_defaultFreeCamera(model, camera)
        return camera
    camera.type = mujoco.mjtCamera.mjCAMERA_FREE.value
    camera.fixedcamid = -1
    rest = mujoco.MjData(model)
    rest.qpos[:] = getattr(env, "init_qpos", model.qpos0)
    mujoco.mj_forward(model, rest)
    camera.lookat[:] = np.median(rest.geom_xpos, axis=0)
    camera.distance = model.stat.extent
    for key, value in (getattr(viewer, "default_cam_config", None) or {}).items():
        if isinstance(value, np.ndarray):
            getattr(camera, key)[:] = value
        else:
            setattr(camera, key, value)
    if number == -1:  # as gymnasium >= 1.4 does at every frame, whatever its config says of tracking
        camera.type = mujoco.mjtCamera.mjCAMERA_FREE.value
    return camera
