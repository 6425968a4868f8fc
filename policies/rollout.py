"""Runs a policy in a vector env and hands back whole episodes, in the order of their seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from policies.policy import Observation, Policy

EXPERT = "expert_action"  # in an observation: what the env's scripted expert does; no part of what was seen
DYNAMICS = "dynamics."  # in infos, before the name of a factor of the episode's dynamics
Episode = dict[str, Any]
Options = dict[str, Any] | None


class _Recording:
    """One episode while it runs. Row t of every list belongs to time t: `observation[t]`, `action[t]` -> `reward[t]`,
    `observation[t + 1]`."""

    def __init__(self, place: int, seed: int):
        self.place, self.seed = place, seed
        self.frames: dict[str, list[np.ndarray]] = {}
        self.instruction: str | None = None
        self.dynamics: dict[str, float] = {}  # factors of the episode's dynamics, where they vary
        self.actions: list[np.ndarray] = []
        self.rewards: list[float] = []
        self.env_steps = 0
        self.successes: list[bool] = []  # after each action, where the env says
        self.success_step: int | None = None  # the first time of success; 0 is the start

    def __len__(self) -> int:
        return len(self.rewards)

    def observe(self, observation: Observation, infos: dict, row: int) -> None:
        """Append what the env showed; copies, because a vector env may write the next step into the same memory."""
        for key, value in observation.items():
            if key == "instruction":
                self.instruction = str(value[row])
                continue
            if key == EXPERT:
                continue
            self.frames.setdefault(key, []).append(np.array(value[row]))
        self.dynamics = {
            key.removeprefix(DYNAMICS): float(infos[key][row]) for key in infos if key.startswith(DYNAMICS)
        }
        if "success" in infos and bool(infos["success"][row]) and self.success_step is None:
            self.success_step = len(self.actions)
        if "privileged" in infos:
            self.frames.setdefault("privileged", []).append(np.array(infos["privileged"][row], np.float32))

    def step(self, action: np.ndarray, reward: float, infos: dict, row: int) -> None:
        """Append what was done and what it brought."""
        if not math.isfinite(reward):
            raise FloatingPointError(
                f"the env gave reward {reward} at agent step {len(self)} of the episode with seed {self.seed}; "
                "rewards must be finite: mend the env's reward, or shorten episodes with env.max_episode_steps"
            )
        self.actions.append(action.copy())
        self.rewards.append(reward)
        self.env_steps += int(infos["env_steps"][row])
        if "success" in infos:
            self.successes.append(bool(infos["success"][row]))

    def episode(self, terminated: bool, truncated: bool, policy: str) -> Episode:
        """The finished episode as the store takes it."""
        half = len(self) // 2
        return {
            **{key: np.stack(values) for key, values in self.frames.items()},
            "action": np.stack(self.actions),
            "reward": np.asarray(self.rewards, np.float32),
            "terminated": terminated,
            "truncated": truncated,
            "info": {
                "seed": self.seed,
                "return": float(np.sum(self.rewards, dtype=np.float64)),
                "success": any(self.successes) if self.successes else None,
                "success_step": self.success_step,
                "late_success": float(np.mean(self.successes[half:])) if self.successes else None,
                "late_reward": float(np.mean(self.rewards[half:])),
                "env_steps": self.env_steps,
                "policy": policy,
                **({} if self.instruction is None else {"instruction": self.instruction}),
                **({"dynamics": self.dynamics} if self.dynamics else {}),
            },
        }


def rollout(
    policy: Policy,
    vector_env,
    seeds: Iterable[int],
    options: Options | Callable[[int], Options] = None,
    on_step: Callable[[int], None] | None = None,
    max_steps: int | None = None,
    *,
    name: str | None = None,
    more: Callable[[int, list[int]], bool] | None = None,
) -> Iterator[Episode]:
    """Run one whole episode per seed and yield them in the order of `seeds`, whichever ends first.

    A row whose episode ends takes the next seed; a row with nothing left to do is stepped along and ignored. What is
    yielded depends on the policy, the env, the seeds and the number of rows, never on timing.

    Args:
        policy: told of every start by `reset(observation, mask)` and asked once per agent step.
        vector_env: `envs.make_vector(...)`, of which every row may be in any state.
        seeds: one per episode; read lazily.
        options: passed to the env's reset; a callable gives the options of the episode with that seed.
        on_step: called after every step with the number of agent steps taken in it (the running rows), and with 0
            after rows were reset; progress bars and cameras hang here.
        max_steps: ends an episode as truncated after so many agent steps.
        name: written to each episode's `info["policy"]`; the policy's class by default.
        more: asked before a row takes a seed, with the agent steps of all finished episodes and those of each running
            one; False leaves the row idle until it is asked again after the next step.

    Yields:
        Episodes: each observation key and `privileged` `[T+1, ...]`, `action` float32 `[T, A]` as the env executed it,
        `reward` float32 `[T]`, `terminated`, `truncated`, and `info` (seed, return, success, env_steps, policy; where
        dynamics vary, `dynamics`, name to factor);
        `success` is whether any step of the episode said so, None where the env never says; `success_step` when it was
        first so (0 is the start); `late_success` the share of the second half's steps that said so, `late_reward` the
        mean reward of that half.

    Raises:
        ValueError: the policy's actions have the wrong shape.
        FloatingPointError: an action or a reward is not finite.
    """
    name = name or type(policy).__name__
    count, source, exhausted = vector_env.count, enumerate(seeds), False
    rows: list[_Recording | None] = [None] * count
    observation: Observation | None = None
    finished: dict[int, Episode] = {}
    finished_steps = due = 0

    while True:
        started: list[int] = []
        for row in (row for row in range(count) if rows[row] is None):
            running = [len(recording) for recording in rows if recording is not None]
            if exhausted or (more is not None and not more(finished_steps, running)):
                break
            item = next(source, None)
            if item is None:
                exhausted = True
                break
            rows[row] = _Recording(item[0], int(item[1]))
            started.append(row)
        if started:
            observation = _reset(vector_env, rows, started, observation, options)
            mask = np.isin(np.arange(count), started)
            policy.reset(observation, mask)
            if on_step is not None:
                on_step(0)

        active = [row for row in range(count) if rows[row] is not None]
        if not active:
            return
        actions = _executed(policy.act(observation), active, vector_env, name, rows)
        observation, rewards, terminated, truncated, infos = vector_env.step(actions)
        for row in active:
            recording = rows[row]
            recording.step(actions[row], float(rewards[row]), infos, row)
            recording.observe(observation, infos, row)
            cut = max_steps is not None and len(recording) >= max_steps and not terminated[row]
            if terminated[row] or truncated[row] or cut:
                ended = recording.episode(bool(terminated[row]), bool(truncated[row]) or cut, name)
                finished[recording.place] = ended
                finished_steps += len(recording)
                rows[row] = None
        if on_step is not None:
            on_step(len(active))
        while due in finished:
            yield finished.pop(due)
            due += 1


def film(
    policy: Policy, vector_env, seed: int, size: int = 256, max_steps: int | None = None, *, name: str | None = None
) -> tuple[Episode, np.ndarray]:
    """Run one episode in a vector env of one row, and film it: the episode and big pictures uint8
    `[T+1, size, size, 3]`, one per observation."""
    if vector_env.count != 1:
        raise ValueError(f"film() takes a vector env of one row, and got {vector_env.count}; make it with count=1")
    pictures: list[np.ndarray] = []

    def capture(_: int) -> None:
        pictures.append(np.array(vector_env.render_frame(size, index=0)))

    (episode,) = rollout(policy, vector_env, [seed], on_step=capture, max_steps=max_steps, name=name)
    return episode, np.stack(pictures)


def _reset(vector_env, rows: list, started: list[int], observation: Observation | None, options) -> Observation:
    """Reset the rows in `started` by their seeds and options, and record their first observation."""
    wanted = {row: options(rows[row].seed) if callable(options) else options for row in started}
    groups: list[tuple[Options, list[int]]] = []
    for row in started:
        members = next((members for option, members in groups if option == wanted[row]), None)
        if members is None:
            groups.append((wanted[row], members := []))
        members.append(row)

    # The first reset of all has to give every row an observation: rows without work repeat the first seed.
    seeds = [rows[started[0] if recording is None else row].seed for row, recording in enumerate(rows)]
    merged = None if observation is None else {key: np.array(value) for key, value in observation.items()}
    for option, members in groups:
        mask = None if merged is None else np.isin(np.arange(len(rows)), members)
        fresh, infos = vector_env.reset(seeds, mask=mask, options=option)
        if merged is None:
            merged = {key: np.array(value) for key, value in fresh.items()}
        for key, value in fresh.items():
            merged[key][members] = value[members]
        for row in members:
            rows[row].observe(merged, infos, row)
    return merged


def _executed(actions: np.ndarray, active: list[int], vector_env, name: str, rows: list) -> np.ndarray:
    """The policy's actions as the env will execute them, so that what is stored is what was done: clipped to [-1, 1],
    exact one-hot for a discrete env, zero for idle rows."""
    actions = np.asarray(actions, np.float32)
    expected = (vector_env.count, vector_env.interface["action_dim"])
    if actions.shape != expected:
        raise ValueError(
            f"policy {name} returned actions of shape {actions.shape}, and the env takes {expected} "
            "(rows, action_dim); was the policy made for another env?"
        )
    for row in active:
        if not np.isfinite(actions[row]).all():
            raise FloatingPointError(
                f"policy {name} returned {actions[row].tolist()} at agent step {len(rows[row])} of the episode with "
                f"seed {rows[row].seed}; its weights may have diverged: go back to an earlier checkpoint"
            )
    executed = np.zeros(expected, np.float32)
    if vector_env.interface["discrete"]:
        executed[active, actions[active].argmax(-1)] = 1.0
    else:
        executed[active] = np.clip(actions[active], -1.0, 1.0)
    return executed
