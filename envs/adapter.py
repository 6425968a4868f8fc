"""Turns any Gymnasium env into one with dict observations, actions in [-1, 1] and pictures from our renderer."""

from __future__ import annotations

import sys

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.actions import ActionMap
from envs.observations import as_picture, split, state_length, state_vector

OBSERVATIONS = ("auto", "pixels", "state", "both")
_FOLLOWING = "(follows)"  # in place of a camera's name: one that keeps a runner in sight
_DEFAULT_FPS = 25.0  # where an env says nothing of time


class Adapter(gymnasium.Wrapper):
    """One env behind the project's env contract; the options are those of configs/env/default.yaml.

    Observations are dicts: `image` uint8 [H, W, 3] (several pictures: `image.<name>` each) and/or `state` float32 [S].
    Actions are float32 [A] in [-1, 1]. `info` always has `env_steps`, the env steps consumed (0 at reset), and where
    the env has them `privileged` float32 [P] (the simulator's state) and `success`, beside what the env itself puts
    there; `instruction`, a sentence, where the env or the option gives one; with `vary`, `dynamics`, name to the episode's
    factor. With `goal_image` every observation also has
    `goal` (`goal.<name>` of several), the picture of what shall be. With `expert`, `info` also has `expert_action`
    float32 [A] in [-1, 1], what the env's scripted expert does now.

    Attributes:
        interface: the fields of `worldmodel.interface.Interface`, as a dict.
        neutral_action: float32 [A], what holds the env still.
        starts_broad: `reset` takes the option `broad`: the env says so by an attribute of that name.
        varies: every episode has other dynamics, see `envs.dynamics`.

    Raises:
        ValueError: an option has an unknown value, or the env can't show what was asked for.
        TypeError: the env's observations or actions are of an unsupported kind; the message names the space.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        *,
        observation: str = "auto",
        image_size: int = 64,
        cameras=(),
        quality: str = "smooth",
        action_repeat: int = 1,
        vary: dict | None = None,
        privileged_state: bool = True,
        goal_image: bool = False,
        instruction: str | None = None,
        expert: bool = False,
    ):
        super().__init__(env)
        if observation not in OBSERVATIONS:
            raise ValueError(f"env.observation={observation!r} is not one of {', '.join(OBSERVATIONS)}")
        if quality not in ("fast", "faithful", "smooth", "default"):
            raise ValueError(f"env.quality={quality!r} is not one of fast, faithful, smooth, default")
        for key, value in (("image_size", image_size), ("action_repeat", action_repeat)):
            if int(value) != value or value < 1:
                raise ValueError(f"env.{key}={value!r} must be a whole number of at least 1")
        self._size, self._quality, self._repeat = int(image_size), quality, int(action_repeat)
        self._actions = ActionMap(env.action_space)
        self.neutral_action = self._actions.neutral
        self.starts_broad = bool(getattr(env.unwrapped, "starts_broad", False))
        self._is_mujoco = _has_mujoco_state(env.unwrapped)
        self._dynamics, self.varies = self._varied(vary), vary is not None
        self._renderers, self._model = {}, None  # by model and size; the model that was drawn last
        self._last = None  # the env's own last observation
        self._goal: dict[str, np.ndarray] = {}
        self._goal_image, self._instruction, self._asks_expert = goal_image, instruction, expert
        if expert and not hasattr(env.unwrapped, "expert_action"):
            raise ValueError(
                f"{self._id} has no scripted expert; worldmodel/Tabletop-v0 and every metaworld/<task>-v3 have one, and an "
                "env of yours that answers expert_action() with an action of its own"
            )
        if goal_image and not getattr(env.unwrapped, "starts_solved", False):
            raise ValueError(
                f"env.goal_image=true: {self._id} has no goal pictures of its own. It would take the reset option "
                "`solved` and say so by an attribute starts_solved = True; or give a picture: objective.image=<file>"
            )

        own_pictures, vectors = split(env.observation_space)
        self._own_pictures = {leaf.name or "image": leaf for leaf in own_pictures}
        self._sources = self._choose_pictures(observation, [str(name) for name in cameras])
        self._vectors = self._choose_vectors(observation, vectors)
        self._privileged = None
        if privileged_state and self._is_mujoco:
            from envs.privileged import state_of

            self._privileged = state_of(env.unwrapped)
        self._set_spaces()

    def _varied(self, vary: dict | None):
        if vary is None:
            return None
        if not self._is_mujoco:
            raise ValueError(
                f"env.vary={vary!r}: {self._id} has no MuJoCo model whose dynamics could vary; leave it null"
            )
        from envs.dynamics import Dynamics

        return Dynamics(vary, getattr(self.env.unwrapped, "models", [self.env.unwrapped.model]), self._id)

    def _choose_pictures(self, observation: str, cameras: list[str]) -> dict[str, str | None]:
        """Observation key to the name of its source: a picture of the env's, a camera, or None for the own view."""
        is_dict = isinstance(self.env.observation_space, spaces.Dict)
        if self._own_pictures:
            wanted = cameras or list(self._own_pictures)
            unknown = [name for name in wanted if name not in self._own_pictures]
            if unknown:
                raise ValueError(f"env.cameras={unknown}: this env's own pictures are {', '.join(self._own_pictures)}")
        elif cameras and not self._is_mujoco:
            raise ValueError(f"env.cameras={cameras}: only MuJoCo envs have named cameras; leave env.cameras=[]")
        else:
            wanted = cameras or [None]
        if observation == "state" or (observation == "auto" and is_dict and not self._own_pictures and not cameras):
            return {}
        can_render = self._own_pictures or self._is_mujoco or self.env.render_mode == "rgb_array"
        if not can_render:
            if observation == "auto":
                return {}
            raise ValueError(
                f"env.observation={observation}: {self._id} can't be rendered (no render_mode rgb_array); use state"
            )
        if self._is_mujoco and not self._own_pictures:
            for name in wanted:
                self._camera(name)  # a misspelt name is found here
        return {"image": wanted[0]} if len(wanted) == 1 else {f"image.{name}": name for name in wanted}

    def _choose_vectors(self, observation: str, vectors: list) -> list:
        as_it_is = isinstance(self.env.observation_space, spaces.Dict) or not self._sources
        keep = observation in ("state", "both") or (observation == "auto" and as_it_is)
        if observation in ("state", "both") and not vectors:
            raise ValueError(f"env.observation={observation}: {self._id} shows pictures and no vector; use pixels")
        return vectors if keep else []

    def _set_spaces(self) -> None:
        shape, length = (self._size, self._size, 3), state_length(self._vectors)
        self.observation_space = spaces.Dict({key: spaces.Box(0, 255, shape, np.uint8) for key in self._sources})
        if self._goal_image:
            for key in self._sources:
                self.observation_space[goal_key(key)] = spaces.Box(0, 255, shape, np.uint8)
        if length:
            self.observation_space["state"] = spaces.Box(-np.inf, np.inf, (length,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (self._actions.length,), np.float32)
        self.interface = {
            "cameras": {key: shape for key in self._sources},
            "state_dim": length,
            "action_dim": self._actions.length,
            "discrete": self._actions.discrete,
            "privileged_dim": self._privileged.length if self._privileged else 0,
            "privileged_positions": self._privileged.positions if self._privileged else 0,
            "fps": _fps(self.env) / self._repeat,
            "action_repeat": self._repeat,
        }

    @property
    def _id(self) -> str:
        return self.env.spec.id if self.env.spec else type(self.env.unwrapped).__name__

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Start an episode. `options={"broad": True}` asks a built-in task for a start from its whole state space."""
        if self._goal_image and seed is None:
            seed = int(self.np_random.integers(2**31))
        if self._dynamics:
            self._dynamics.draw(seed)
        if self._goal_image:
            solved, _ = self.env.reset(seed=seed, options={**(options or {}), "solved": True})
            self._last = solved
            self._goal = {goal_key(key): self._picture(name, self._size) for key, name in self._sources.items()}
        observation, info = self.env.reset(seed=seed, options=options)
        if self._dynamics:
            self._dynamics.follow(self.env.unwrapped.model, self.env.unwrapped.data)
        return self._observe(observation), self._annotate(info, env_steps=0)

    def step(self, action: np.ndarray):
        """Take `action` [A] for `action_repeat` env steps, fewer where the episode ends; rewards are summed."""
        physical = self._actions(action)
        total = 0.0
        for steps in range(1, self._repeat + 1):
            observation, reward, terminated, truncated, info = self.env.step(physical)
            total += float(reward)
            if terminated or truncated:
                break
        info = self._annotate(info, env_steps=steps)
        return self._observe(observation), total, bool(terminated), bool(truncated), info

    def expert_action(self) -> np.ndarray:
        """What the env's scripted expert does now: float32 [A] in [-1, 1]. It may remember: ask once a step."""
        return self._actions.inverse(self.env.unwrapped.expert_action())

    def render_frame(self, size: int) -> np.ndarray:
        """The current picture, uint8 [size, size, 3]: from the first camera, where none is observed from one that follows."""
        name = next(iter(self._sources.values()), _FOLLOWING)
        if not self._sources and self._own_pictures:
            name = next(iter(self._own_pictures))
        if not (self._own_pictures or self._is_mujoco or self.env.render_mode == "rgb_array"):
            raise ValueError(f"{self._id} has no picture to show: it has no render_mode rgb_array")
        return self._picture(name, size)

    def close(self) -> None:
        """Free the renderers and close the env; other envs are not touched."""
        self._free_renderers()
        super().close()

    def _observe(self, observation) -> dict[str, np.ndarray]:
        self._last = observation
        out = {key: self._picture(name, self._size) for key, name in self._sources.items()} | self._goal
        if self._vectors:
            out["state"] = state_vector(self._vectors, observation)
        return out

    def _annotate(self, info: dict, env_steps: int) -> dict:
        info = {**info, "env_steps": env_steps}
        if self._instruction is not None:
            info.setdefault("instruction", self._instruction)
        if "is_success" in info:  # what robotics suites call it
            info.setdefault("success", info["is_success"])
        if "success" in info:
            info["success"] = bool(info["success"])
        if self._dynamics:
            info["dynamics"] = dict(self._dynamics.factors)
        if self._privileged:
            info["privileged"] = self._privileged(self.env.unwrapped.data)
        if self._asks_expert:
            info["expert_action"] = self.expert_action()
        return info

    def _picture(self, name: str | None, size: int) -> np.ndarray:
        if self._own_pictures:
            return as_picture(self._own_pictures[name].read(self._last), size)
        if not self._is_mujoco:
            try:
                return as_picture(self.env.render(), size)
            except gymnasium.error.DependencyNotInstalled as error:
                raise ValueError(
                    f"{self._id} can't draw itself: {error}. Or show its vector: env.observation=state"
                ) from error
        camera = self._camera(name)
        renderers = self._renderers[id(self._model)]
        if size not in renderers:
            from envs.renderer import Renderer

            options = getattr(getattr(self.env.unwrapped, "mujoco_renderer", None), "_vopt", None)
            renderers[size] = Renderer(self._model, size, size, self._quality, options)
        # Drawn as the env left it: bringing its data up to date here would change what some envs compute next.
        return renderers[size].render(self.env.unwrapped.data, camera)

    def _camera(self, name: str | None):
        from envs.cameras import following_view, named_camera, own_view

        if self.env.unwrapped.model is not self._model:  # at first, and after an env rebuilt its model, or took another
            if self._model is not None and not hasattr(self.env.unwrapped, "models"):
                self._free_renderers()
            self._model = self.env.unwrapped.model
            self._renderers.setdefault(id(self._model), {})
            self._views = {}
        if name not in self._views:
            view = {None: own_view, _FOLLOWING: following_view}.get(name)
            self._views[name] = view(self.env.unwrapped) if view else named_camera(self._model, name)
        return self._views[name]

    def _free_renderers(self) -> None:
        for renderers in self._renderers.values():
            for renderer in renderers.values():
                renderer.close()
        self._renderers = {}


def goal_key(key: str) -> str:
    """Where the goal's picture of the camera `image` or `image.<name>` stands in an observation."""
    return "goal" + key.removeprefix("image")


def _has_mujoco_state(env) -> bool:
    """The env has a MuJoCo `model` and `data`; mujoco itself is not imported for an env that has not."""
    mujoco = sys.modules.get("mujoco")
    return bool(mujoco) and isinstance(getattr(env, "model", None), mujoco.MjModel) and hasattr(env, "data")


def _fps(env: gymnasium.Env) -> float:
    """Env steps per simulated second."""
    seconds = getattr(env.unwrapped, "dt", None)
    if isinstance(seconds, (int, float)) and seconds > 0:
        return 1.0 / float(seconds)
    return float(env.metadata.get("render_fps") or _DEFAULT_FPS)
