"""The DeepMind Control Suite as Gymnasium envs, by the ids `dmc/<domain>-<task>`; needs the extra [dmc]."""

from __future__ import annotations

import difflib
from typing import ClassVar

import gymnasium
import numpy as np


def _suite():
    """dm_control's suite, imported here because it is an extra and takes seconds."""
    try:
        from dm_control import suite
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f'dmc/ envs need dm_control ({error}): pip install "worldmodel[dmc]"') from error
    except Exception as error:
        raise _mismatch(error) from error
    return suite


def _mismatch(error: Exception) -> ImportError:
    """dm_control against a mujoco it does not know fails with whatever it stumbles over first."""
    import mujoco

    return ImportError(
        f"dm_control and mujoco {mujoco.__version__} don't go together ({error!r}); the extra brings versions that do: "
        'pip install "worldmodel[dmc]"'
    )


def task_names() -> list[str]:
    """Every id of the suite, as `make` takes it.

    Raises:
        ImportError: dm_control is not installed, or does not go with the installed mujoco."""
    return [f"dmc/{domain}-{task}" for domain, task in _suite().ALL_TASKS]


class ControlSuite(gymnasium.Env):
    """One task of the Control Suite (Tassa et al. 2018): mostly 1000 rewards in [0, 1], seen by camera 0.

    `terminated` only where the suite's discount is 0; its time limit is `truncated`. Observation: all of the suite's,
    flattened and joined in its order, float32.

    Args:
        id: `dmc/<domain>-<task>`, as in `dmc/walker-walk`.
        task_kwargs, environment_kwargs: passed to `dm_control.suite.load`.

    Raises:
        ImportError: dm_control is missing, or does not go with the installed mujoco; the message names the command.
        ValueError: the suite has no such task; the message names near misses.
    """

    metadata: ClassVar[dict] = {"render_modes": []}
    own_camera = "0"  # the view of the literature's pixel benchmarks

    def __init__(self, id: str, task_kwargs: dict | None = None, environment_kwargs: dict | None = None):
        suite, known = _suite(), task_names()
        if id not in known:
            near = difflib.get_close_matches(id, known, n=5, cutoff=0.4)
            raise ValueError(f"env.id={id}: the suite has no such task; did you mean {', '.join(near or known[:5])}?")
        domain, _, task = id.removeprefix("dmc/").partition("-")
        self._random = np.random.RandomState()  # the suite draws from it; reset(seed) seeds it again
        task_kwargs = {**(task_kwargs or {}), "random": self._random}
        try:
            self._env = suite.load(domain, task, task_kwargs, dict(environment_kwargs or {}))
        except AttributeError as error:
            raise _mismatch(error) from error
        self.dt = float(self._env.control_timestep())
        actions = self._env.action_spec()
        low, high = (
            np.broadcast_to(bound, actions.shape).astype(np.float32) for bound in (actions.minimum, actions.maximum)
        )
        self.action_space = gymnasium.spaces.Box(low, high, dtype=np.float32)
        length = sum(int(np.prod(spec.shape)) for spec in self._env.observation_spec().values())
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (length,), np.float32)

    @property
    def model(self):
        """The raw `mujoco.MjModel`."""
        return self._env.physics.model.ptr

    @property
    def data(self):
        """The raw `mujoco.MjData`."""
        return self._env.physics.data.ptr

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed)
        if seed is not None:
            self._random.seed(seed)
        return self._vector(self._env.reset().observation), {}

    def step(self, action):
        step = self._env.step(action)
        terminated = step.last() and step.discount == 0.0
        return self._vector(step.observation), step.reward or 0.0, terminated, step.last() and not terminated, {}

    def close(self) -> None:
        self._env.close()

    @staticmethod
    def _vector(observation: dict) -> np.ndarray:
        return np.concatenate([np.ravel(value) for value in observation.values()], dtype=np.float32, casting="unsafe")
