"""Several envs stepped together, in this process or in one process each, with episode ends left to the caller."""

from __future__ import annotations

import functools
import multiprocessing
import signal

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from envs.catalogue import make

# What crosses the process border; the rest of info stays there.
_FORWARDED = ("privileged", "env_steps", "success", "instruction", "expert_action")
_DYNAMICS = "dynamics."  # before the name of a factor of the episode's dynamics
_SHOWN = ("instruction", "expert_action")  # what a policy may read of it


class _Row(gymnasium.Wrapper):
    """One env of a vector: frozen after its episode's end, until it is reset.

    Gymnasium's vectors refuse to step a row that is done (AutoresetMode.DISABLED), and an evaluation steps every row
    until the last one is done. So a row says to Gymnasium that it never ends, and tells its true ends in `info`.
    """

    def __init__(self, env: gymnasium.Env, row: int):
        super().__init__(env)
        self._row = row
        self._ended = None  # the (observation, info) that a frozen row goes on giving

    def reset(self, *, seed=None, options=None):
        self._ended = None
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, self._forward(info, False, False)

    def step(self, action):
        if self._ended is not None:
            observation, info = self._ended
            return observation, 0.0, False, False, {**info, "env_steps": 0}
        observation, reward, terminated, truncated, info = self.env.step(action)
        info = self._forward(info, terminated, truncated)
        if terminated or truncated:
            self._ended = observation, info
        return observation, reward, False, False, info

    def frame_of(self, row: int, size: int):
        """The picture of `row`, and nothing from the others."""
        return self.env.render_frame(size) if row == self._row else None

    def _forward(self, info: dict, terminated: bool, truncated: bool) -> dict:
        kept = {key: info[key] for key in _FORWARDED if key in info}
        if self.env.varies:
            kept |= {f"{_DYNAMICS}{name}": factor for name, factor in info["dynamics"].items()}
        return {**kept, "terminated": terminated, "truncated": truncated}


def _make_row(row: int, options: dict) -> _Row:
    if multiprocessing.parent_process() is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the trainer, which closes its workers in order
    return _Row(make(**options), row)


class VectorEnv:
    """`count` envs of one kind behind one batched interface; see `make_vector`.

    Attributes:
        count: number of envs, n.
        interface: of each env, as a dict.
        neutral_action: float32 [A], what holds an env still.
        starts_broad: episodes can start anywhere in the state space.
    """

    def __init__(self, count: int, workers: int, options: dict):
        if count < 1:
            raise ValueError(f"a vector of {count} envs: it takes at least one")
        rows = [functools.partial(_make_row, row, options) for row in range(count)]
        self.count = count
        self._infos: dict[str, np.ndarray] = {}
        if workers:
            # spawn: a forked child would share the parent's GL context and threads, and neither survives a fork.
            self._envs = AsyncVectorEnv(rows, context="spawn", autoreset_mode=AutoresetMode.DISABLED)
        else:
            self._envs = SyncVectorEnv(rows, autoreset_mode=AutoresetMode.DISABLED)
        self.interface = self._envs.get_attr("interface")[0]
        self.neutral_action = self._envs.get_attr("neutral_action")[0]
        self.starts_broad = self._envs.get_attr("starts_broad")[0]

    def reset(self, seeds: list[int | None], mask: np.ndarray | None = None, options: dict | None = None):
        """Start new episodes where `mask` (bool [n]; None: everywhere) is true.

        Args:
            seeds: one per row; None draws on from where the row's generator is. Rows outside the mask ignore theirs.
            options: passed to each env's `reset`.

        Returns:
            observations: dict of arrays [n, ...]; rows outside the mask show what they showed. `instruction` is [n] of
                str, where the envs have one; `expert_action` float32 [n, A], where they were made with `expert`.
            infos: dict of arrays [n, ...]: `env_steps`, and where the env has them `privileged`, `success`, and
                `dynamics.<name>`, each factor of the episode's dynamics.
        """
        if len(seeds) != self.count:
            raise ValueError(
                f"{len(seeds)} seeds for {self.count} envs; give one per env, None where it does not matter"
            )
        options = dict(options or {})
        if mask is not None and not np.all(mask):
            if not self._infos:
                raise ValueError("the first reset must start every env: leave mask=None")
            if not np.any(mask):
                raise ValueError("reset with a mask that is false everywhere: there is nothing to reset")
            options["reset_mask"] = np.asarray(mask, bool)
        observations, infos = self._envs.reset(seed=list(seeds), options=options)
        merged = self._merge(infos)
        return self._shown(observations, merged), merged

    def step(self, actions: np.ndarray):
        """Take `actions` [n, A]. A row whose episode is over stays as it is, with reward 0 and no env steps, until it
        is reset.

        Returns:
            observations (dict of arrays [n, ...]), rewards float32 [n], terminated bool [n], truncated bool [n], infos
            (dict of arrays [n, ...]).
        """
        actions = np.asarray(actions, np.float32)
        if actions.shape != self._envs.action_space.shape:
            raise ValueError(f"actions of shape {actions.shape} where {self._envs.action_space.shape} is taken")
        observations, rewards, _, _, infos = self._envs.step(actions)
        merged = self._merge(infos)
        observations = self._shown(observations, merged)
        return observations, rewards.astype(np.float32), self._infos["terminated"], self._infos["truncated"], merged

    def render_frame(self, size: int, index: int = 0) -> np.ndarray:
        """A picture of env `index` for videos, uint8 [size, size, 3]."""
        return self._envs.call("frame_of", index, size)[index]

    def close(self) -> None:
        """Close every env, and end the workers."""
        self._envs.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @staticmethod
    def _shown(observations: dict, infos: dict) -> dict:
        """Observations with what is told beside them, and crosses the process border with the infos: the instruction,
        which is text, and the expert's action, which no other policy reads and no store keeps."""
        return {**observations, **{key: infos.pop(key) for key in _SHOWN if key in infos}}

    def _merge(self, infos: dict) -> dict[str, np.ndarray]:
        """Gymnasium's infos as full arrays: rows that said nothing keep what they said last."""
        factors = [key for key in infos if key.startswith(_DYNAMICS)]
        for key in (*_FORWARDED, *factors, "terminated", "truncated"):
            if key in infos:
                said = infos[f"_{key}"]
                before = self._infos.get(key)
                value = infos[key].copy() if before is None else before.copy()
                value[said] = infos[key][said]
                self._infos[key] = value
        return {key: value for key, value in self._infos.items() if key not in ("terminated", "truncated")}


def make_vector(count: int, workers: int = 0, **options) -> VectorEnv:
    """Make `count` envs that step together.

    Args:
        workers: 0 steps them one after the other in this process; more than 0 gives each env a process of its own. A
            worker knows the envs that `import envs` registers; an env of yours is found there by the id
            `your_module:YourEnv-v0`.
        options: those of `envs.make`, `id` among them.
    """
    return VectorEnv(count, workers, options)
