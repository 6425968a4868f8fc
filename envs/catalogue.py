"""Finds envs by id: built-in tasks, anything registered in Gymnasium, `dmc/<domain>-<task>`, `metaworld/<task>-v3`."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import sys

import gymnasium
from gymnasium.envs.registration import load_env_creator

from envs.adapter import Adapter
from envs.tasks import CONTROL_STEPS

_BUILT_IN = {
    "worldmodel/CartpoleSwingup-v0": "envs.tasks.cartpole:CartpoleSwingup",
    "worldmodel/PendulumSwingup-v0": "envs.tasks.pendulum:PendulumSwingup",
    "worldmodel/Reacher-v0": "envs.tasks.reacher:Reacher",
    "worldmodel/TwoRoom-v0": "envs.tasks.two_room:TwoRoom",
    "worldmodel/Pusher-v0": "envs.tasks.pusher:Pusher",
    "worldmodel/Tabletop-v0": "envs.tabletop.task:Tabletop",
    "worldmodel/Many-v0": "envs.tasks.many:Many",
}


def register_built_in() -> None:
    """Register the built-in tasks in Gymnasium; called by `import envs`, again without effect."""
    for name, entry_point in _BUILT_IN.items():
        if name not in gymnasium.registry:
            gymnasium.register(name, entry_point=entry_point, max_episode_steps=CONTROL_STEPS)


def make(
    id: str,
    *,
    kwargs: dict | None = None,
    observation: str = "auto",
    image_size: int = 64,
    cameras=(),
    quality: str = "smooth",
    action_repeat: int = 1,
    max_episode_steps: int | None = None,
    vary: dict | None = None,
    privileged_state: bool = True,
    goal_image: bool = False,
    instruction: str | None = None,
    expert: bool = False,
) -> Adapter:
    """Make any env behind the project's env contract (see `Adapter`); but for `expert`, the keys are those of
    configs/env/default.yaml.

    Args:
        id: a Gymnasium id, `module:id` to import `module` first (which registers the env; needed by worker processes
            for envs of your own), `dmc/<domain>-<task>` (needs `pip install "worldmodel[dmc]"`), or
            `metaworld/<task>-v3` (needs `pip install "worldmodel[metaworld]"`).
        kwargs: for the env's own constructor.
        max_episode_steps: in env steps, whatever `action_repeat` is; None keeps the env's own limit.
        vary: what of a MuJoCo env's dynamics is multiplied in every episode by a factor of its own: some of `mass`,
            `friction`, `gravity`, `gain` to (low, high), see `envs.dynamics.Dynamics`; None: nothing.
        instruction: what is asked for in every episode; an env that takes the keyword `instruction` is made with it.
        expert: show what the env's scripted expert does, for the policy that follows it.

    Raises:
        ValueError: an unknown id (the message names near misses), or an option that the env can't follow.
        ModuleNotFoundError: the module before the colon, or an extra that the id needs.
    """
    kwargs = dict(kwargs or {})
    if id.startswith("dmc/"):
        from envs.dmc import ControlSuite

        env = ControlSuite(id, **kwargs)
        if max_episode_steps is not None:
            env = gymnasium.wrappers.TimeLimit(env, max_episode_steps)
    elif id.startswith("metaworld/"):
        from envs.metaworld import MetaWorld

        given = {"max_episode_steps": max_episode_steps, "instruction": instruction}
        env = MetaWorld(id, **kwargs | {key: value for key, value in given.items() if value is not None})
    else:
        env = _make_registered(id, kwargs, max_episode_steps, instruction)
    try:
        return Adapter(
            env,
            observation=observation,
            image_size=image_size,
            cameras=cameras,
            quality=quality,
            action_repeat=action_repeat,
            vary=vary,
            privileged_state=privileged_state,
            goal_image=goal_image,
            instruction=instruction,
            expert=expert,
        )
    except Exception:
        env.close()
        raise


def _make_registered(
    id: str, kwargs: dict, max_episode_steps: int | None, instruction: str | None = None
) -> gymnasium.Env:
    module, _, name = id.rpartition(":")
    if module:
        _import(module, id)
    spec = gymnasium.registry.get(name)
    if spec is None:
        raise ValueError(_unknown(name))
    creator = spec.entry_point if callable(spec.entry_point) else load_env_creator(spec.entry_point)
    modes = getattr(creator, "metadata", {}).get("render_modes", ())  # a plain function says none: give it env.kwargs
    if "rgb_array" in modes:
        kwargs.setdefault("render_mode", "rgb_array")
    if instruction is not None and "instruction" in inspect.signature(creator).parameters:
        kwargs["instruction"] = instruction
    # The checker warns at every start about the env's own code; what we rely on, the adapter checks.
    return gymnasium.make(name, max_episode_steps=max_episode_steps, disable_env_checker=True, **kwargs)


def _import(module: str, id: str) -> None:
    """Import a user's module, from the working directory too: a console script does not look there."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"env.id={id}: {error}; run from the folder that holds {module}, or pip install it", name=error.name
        ) from error


def _unknown(name: str) -> str:
    known = list(gymnasium.registry)
    try:
        from envs.dmc import task_names

        known += task_names()
    except ImportError:
        pass  # dm_control is an extra
    by_lower = {key.lower(): key for key in known}
    near = [by_lower[key] for key in difflib.get_close_matches(name.lower(), by_lower, n=5, cutoff=0.5)]
    hint = f"did you mean {', '.join(near)}?" if near else "gymnasium.pprint_registry() lists what is registered."
    return (
        f"env.id={name}: no such env; {hint} An env of your own is found as env.id=your_module:{name}, where importing "
        "your_module registers it with gymnasium.register."
    )
