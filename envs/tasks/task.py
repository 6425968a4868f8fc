"""What the built-in tasks share: time, rewards of at most 1000 an episode, starts, and a cheap picture."""

from __future__ import annotations

import abc
import math
from pathlib import Path
from typing import ClassVar

import gymnasium
import mujoco
import numpy as np

from envs.tasks import PHYSICS_STEPS

_ASSETS = Path(__file__).parent.parent / "assets"


class Task(gymnasium.Env, abc.ABC):
    """A MuJoCo world with a reward.

    **Reward.** Every task defines a reward in [0, 1] for one physics step; `step` returns the sum over its four physics
    steps, in [0, 4]. With 250 control steps an episode's return lies in [0, 1000], as in the DeepMind Control Suite
    (Tassa et al. 2018), whose episodes sum 1000 rewards in [0, 1]. No task terminates; episodes are truncated after 250
    steps.

    **Starts.** `reset(options=...)` takes `{"broad": True}`, a start drawn from the whole state space, for collection;
    `{"state": array}`: positions and velocities to start from exactly, [nq + nv] or, at rest, [nq].

    A subclass sets `asset` (a file in envs/assets) and defines `_place`, `_reward` and `_observation`.

    Args:
        render_mode: None or `rgb_array`; `render()` gives 256x256 pixels.
    """

    metadata: ClassVar[dict] = {"render_modes": ["rgb_array"], "render_fps": 25}
    asset: str
    own_camera = "view"
    starts_broad = True  # `reset` takes the option `broad`

    def __init__(self, render_mode: str | None = None):
        self.model = mujoco.MjModel.from_xml_path(str(_ASSETS / self.asset))
        self.data = mujoco.MjData(self.model)
        self.dt = PHYSICS_STEPS * self.model.opt.timestep
        self.render_mode = render_mode
        self._renderer = None
        low, high = self.model.actuator_ctrlrange.T.astype(np.float32)
        self.action_space = gymnasium.spaces.Box(low, high, dtype=np.float32)
        mujoco.mj_forward(self.model, self.data)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, self._observation().shape, np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed)
        options = options or {}
        mujoco.mj_resetData(self.model, self.data)
        self._place(self.np_random, bool(options.get("broad", False)))
        self._apply(options)
        mujoco.mj_forward(self.model, self.data)
        return self._observation(), self._info()

    def step(self, action):
        data = self.data
        data.ctrl[:] = action
        reward = 0.0
        for _ in range(PHYSICS_STEPS):
            mujoco.mj_step(self.model, data)
            reward += self._reward()
        # mj_step moves the joints last and leaves the bodies where they were: a picture would be one physics step late.
        mujoco.mj_kinematics(self.model, data)
        return self._observation(), reward, False, False, self._info()

    def render(self):
        from envs.cameras import own_view
        from envs.renderer import Renderer

        if self._renderer is None:
            self._renderer = Renderer(self.model, 256, 256)
        return self._renderer.render(self.data, own_view(self))

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _apply(self, options: dict) -> None:
        """Put what `reset` was told to put exactly."""
        if options.get("state") is None:
            return
        state, nq, nv = np.asarray(options["state"], float), self.model.nq, self.model.nv
        if state.shape not in ((nq,), (nq + nv,)):
            raise ValueError(
                f"reset option 'state' has shape {state.shape}; {type(self).__name__} takes ({nq + nv},): "
                f"{nq} positions and {nv} velocities, or the positions alone"
            )
        self.data.qpos[:] = state[:nq]
        self.data.qvel[:] = state[nq:] if state.size > nq else 0.0

    @abc.abstractmethod
    def _place(self, rng: np.random.Generator, broad: bool) -> None:
        """Draw a start (and a goal) into `data`."""

    @abc.abstractmethod
    def _reward(self) -> float:
        """The reward of the current physics step, in [0, 1]."""

    @abc.abstractmethod
    def _observation(self) -> np.ndarray:
        """The state as a float32 vector."""

    def _info(self) -> dict:
        return {}


class GoalTask(Task):
    """A task with a place to reach, a mocap body named `goal`, and `info["success"]`.

    `reset(options=...)` also takes `{"goal": array}`, where the goal's centre shall be, [2], and `{"solved": True}`: the
    very task that the seed draws, as it looks when it is done. Its picture is the goal image of that task.

    Args:
        render_goal: show the goal as a green disk. Off where a goal is given as a picture of what shall be: that
            picture must not show anything else that moves.
    """

    def __init__(self, render_goal: bool = True, render_mode: str | None = None):
        super().__init__(render_mode)
        if not render_goal:
            self.model.geom("goal").rgba[3] = 0.0

    @property
    def goal(self) -> np.ndarray:
        """Its centre, [2], to read and to write."""
        return self.data.mocap_pos[0, :2]

    starts_solved = True  # `reset` takes the option `solved`

    def _apply(self, options: dict) -> None:
        super()._apply(options)
        if options.get("goal") is not None:
            self.goal[:] = np.asarray(options["goal"], float)
        if options.get("solved"):
            self._solve()
            self.data.qvel[:] = 0.0

    @abc.abstractmethod
    def _solve(self) -> None:
        """Put the joints from where they start to where the goal is reached."""

    @abc.abstractmethod
    def _success(self) -> bool:
        """The goal is reached now."""

    def _info(self) -> dict:
        return {"success": self._success()}


def closeness(value: float, margin: float, at_margin: float = 0.1) -> float:
    """1 at zero and below, falling like a Gaussian to `at_margin` at `margin`: the Control Suite's `tolerance`."""
    return math.exp(math.log(at_margin) * (max(value, 0.0) / margin) ** 2)
