"""Measures our renderer beside `env.render()`, in the same run, and whole envs, for `python -m scripts.benchmark`."""

from __future__ import annotations

import time
from collections.abc import Callable

import gymnasium
import numpy as np

from envs.cameras import own_view
from envs.catalogue import make
from envs.renderer import Renderer

DEFAULT_IDS = ("HalfCheetah-v5", "Walker2d-v5", "Humanoid-v5")
_COMPARED_STATES = 5  # states, ten random steps apart, that the pictures are compared in


def measure_rendering(ids=DEFAULT_IDS, size: int = 64, seconds: float = 1.0) -> list[dict]:
    """Frames per second of one core (CPU time of this process) and likeness to `env.render()`, for MuJoCo envs.

    Args:
        ids: Gymnasium ids whose constructors take `width` and `height`.
        size: pictures are size x size pixels.
        seconds: of CPU time per measurement; three measurements an id.

    Returns:
        one dict an id: `id`, `size`, `env_render_fps`, and for each quality `faithful` and `fast`: `<quality>_fps`,
        `<quality>_ratio` (over `env_render_fps`), `<quality>_difference` (mean absolute, of 255).
    """
    return [_measure(id, size, seconds) for id in ids]


def measure_stepping(id: str, runs: int = 7, seconds: float = 1.0, **options) -> list[float]:
    """Observations per second of one core (CPU time of this process) that an env gives behind its adapter: random
    actions, each observation a picture, with the resets that episodes of the env's own length need.

    Args:
        id: of the env; `options` are the others of `envs.make`.
        runs: measurements, each going on where the last one ended.
        seconds: of CPU time per measurement.
    """
    env = make(id, **options)
    env.action_space.seed(0)
    env.reset(seed=0)

    def frame() -> None:
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            env.reset()

    try:
        return [_frames_per_second(frame, seconds) for _ in range(runs)]
    finally:
        env.close()


def _measure(id: str, size: int, seconds: float) -> dict:
    env = gymnasium.make(id, render_mode="rgb_array", width=size, height=size, disable_env_checker=True)
    env.reset(seed=0)
    env.action_space.seed(0)
    model, data = env.unwrapped.model, env.unwrapped.data
    # Gymnasium's free view looks at the middle of the first state it is asked to draw; ours at that of the rest pose.
    env.unwrapped.set_state(env.unwrapped.init_qpos, env.unwrapped.init_qvel)
    env.render()
    view = own_view(env.unwrapped)
    renderers = {quality: Renderer(model, size, size, quality) for quality in ("faithful", "fast")}
    result = {"id": id, "size": size, "env_render_fps": _frames_per_second(env.render, seconds)}
    for quality, renderer in renderers.items():
        result[f"{quality}_fps"] = _frames_per_second(lambda renderer=renderer: renderer.render(data, view), seconds)
        result[f"{quality}_ratio"] = result[f"{quality}_fps"] / result["env_render_fps"]
    differences = {quality: [] for quality in renderers}
    for _ in range(_COMPARED_STATES):
        theirs = env.render().astype(int)
        for quality, renderer in renderers.items():
            differences[quality].append(np.abs(renderer.render(data, view) - theirs).mean())
        for _ in range(10):
            _, _, terminated, _, _ = env.step(env.action_space.sample())
            if terminated:
                env.reset()
    for quality, renderer in renderers.items():
        result[f"{quality}_difference"] = float(np.mean(differences[quality]))
        renderer.close()
    env.close()
    return result


def _frames_per_second(render: Callable[[], object], seconds: float) -> float:
    render()  # whatever is made on first use is not counted
    frames, start = 0, time.process_time()
    while (elapsed := time.process_time() - start) < seconds:
        render()
        frames += 1
    return frames / elapsed
