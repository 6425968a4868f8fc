"""Several tasks as one env, so that one world model learns them all: another task in every episode."""

from __future__ import annotations

from typing import ClassVar

import gymnasium
import mujoco
import numpy as np

from envs.actions import ActionMap

BUILT_IN = ("CartpoleSwingup", "PendulumSwingup", "Reacher", "TwoRoom", "Pusher", "Tabletop")


class Many(gymnasium.Env):
    """One of several built-in tasks in every episode, drawn by the episode's seed.

    Actions in [-1, 1] are as long as the longest of any task; a task with fewer takes the first. The observation says which
    task it is and which actions count: a one-hot token of the embodiment `[tasks]` and a mask `[A]`. With
    `env.observation=both` a model is shown it beside the pictures; without, it sees from the picture what it is.
    `info["task"]` is the task's name. Rewards, starts and successes are the task's own.

    A model of many tasks fits each of them alone, and one that it has not seen, if both are listed in `tasks`:

        env.id=worldmodel/Many-v0 env.kwargs.drawn=[Reacher]

    Args:
        tasks: what there is a token for, names of built-in tasks (`BUILT_IN`).
        drawn: what episodes are of; None: all `tasks`.
        task_kwargs: task to arguments of its own.

    Attributes:
        envs: of all tasks.
        models: theirs; `model` is one of them.

    Raises:
        ValueError: an unknown task, or one that is drawn and not listed.
    """

    metadata: ClassVar[dict] = {"render_modes": ["rgb_array"], "render_fps": 25}
    own_camera = "view"
    starts_broad = True

    def __init__(self, tasks=BUILT_IN, drawn=None, task_kwargs: dict | None = None, render_mode: str | None = None):
        self.tasks, self.drawn = list(tasks), list(tasks if drawn is None else drawn)
        for option, names, known in (("tasks", self.tasks, BUILT_IN), ("drawn", self.drawn, self.tasks)):
            if not names or not set(names) <= set(known):
                raise ValueError(f"env.kwargs.{option}={names}: give some of {', '.join(known)}")
        own = task_kwargs or {}
        if not set(own) <= set(self.tasks):
            raise ValueError(f"env.kwargs.task_kwargs={own}: arguments by task, of {', '.join(self.tasks)}")
        self._envs = {
            name: gymnasium.make(f"worldmodel/{name}-v0", disable_env_checker=True, **own.get(name, {})).unwrapped
            for name in self.tasks
        }
        self._maps = {name: ActionMap(env.action_space) for name, env in self._envs.items()}
        self.envs = list(self._envs.values())
        self.models = [env.model for env in self.envs]
        self.dt, self.render_mode = self.envs[0].dt, render_mode
        self._task = self.drawn[0]
        longest = max(action_map.length for action_map in self._maps.values())
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (longest,), np.float32)
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (len(self.tasks) + longest,), np.float32)

    @property
    def model(self) -> mujoco.MjModel:
        """Of the episode's task."""
        return self._envs[self._task].model

    @property
    def data(self) -> mujoco.MjData:
        """Of the episode's task."""
        return self._envs[self._task].data

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed)
        self._task = self.drawn[int(self.np_random.integers(len(self.drawn)))]
        _, info = self._envs[self._task].reset(seed=int(self.np_random.integers(2**31)), options=options)
        return self._observation(), self._info(info)

    def step(self, action):
        own = self._maps[self._task]
        _, reward, terminated, truncated, info = self._envs[self._task].step(own(np.asarray(action)[: own.length]))
        return self._observation(), reward, terminated, truncated, self._info(info)

    def render(self):
        return self._envs[self._task].render()

    def close(self) -> None:
        for env in self.envs:
            env.close()

    def _observation(self) -> np.ndarray:
        token = [name == self._task for name in self.tasks]
        mask = np.arange(self.action_space.shape[0]) < self._maps[self._task].length
        return np.array([*token, *mask], np.float32)

    def _info(self, info: dict) -> dict:
        return {**info, "task": self._task}
