"""Adds episodes of a policy to a store until it has enough steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from policies.baselines import RandomPolicy
from policies.expert import ExpertPolicy
from policies.policy import Policy
from policies.rollout import Episode, rollout

if TYPE_CHECKING:
    from worldmodel.data import EpisodeStore
    from worldmodel.interface import Interface
    from worldmodel.progress import Progress

FAILURES = 100  # episodes in a row, without a success, after which nothing more is hoped for
BROAD_STREAM = 0xB20AD  # keeps the draw "is this start broad?" apart from the env's own use of the same seed


def is_goal(key: str) -> bool:
    """Is this observation the picture of a goal? It is the task's, and no part of what happened."""
    return key == "goal" or key.startswith("goal.")


def is_broad(seed: int, fraction: float) -> bool:
    """Whether the episode with this seed starts anywhere in the state space: a fair draw that hangs on the seed alone,
    so that a resumed collection goes on as the unbroken one."""
    return fraction > 0 and bool(np.random.default_rng([BROAD_STREAM, seed]).random() < fraction)


def collect(
    policy: Policy,
    vector_env,
    store: EpisodeStore,
    steps: int,
    seeds: Iterator[int],
    *,
    broad_fraction: float = 0.0,
    max_steps: int | None = None,
    successful_only: bool = False,
    name: str | None = None,
    label: str = "collect",
    progress: Progress | None = None,
    on_step: Callable[[int], None] | None = None,
) -> dict:
    """Append whole episodes to `store` until at least `steps` agent steps were added.

    Every step that was run is stored, but for failed episodes with `successful_only`: a row takes another episode only while the finished steps and those expected of
    the running episodes fall short, so that the store exceeds `steps` by less than one episode a row. An episode is
    expected to last `max_steps`, or as long as the store's mean; with neither, every row runs at least once.

    Args:
        seeds: one is taken per episode (the summary's `episodes` says how many); a resumed run skips those.
        broad_fraction: share of the episodes that start anywhere in the state space (`is_broad`), where the env can.
        max_steps: agent steps after which an episode is cut: many short episodes cover more than a few long ones.
        successful_only: run failed episodes, and count their seeds, but store those alone in which a step was a success.
        name: of the policy, in each episode's info.
        progress: shows a bar of this collection, named `label`.
        on_step: called with the number of agent steps just taken, for a bar of the caller's own.

    Returns:
        `episodes`, `steps`, `return_mean`, `return_max`, `broad_episodes` of what was stored; `dropped`, the failed
        episodes that were not; `env_steps` and `success_rate` (None where the env never says) of all; `seconds`,
        `steps_per_second`.

    Raises:
        ValueError: a fraction out of its range, or `successful_only` where the env never tells success or the policy
            fails a hundred times in a row.
    """
    if not 0.0 <= broad_fraction <= 1.0:
        raise ValueError(f"the fraction of broad starts is between 0 and 1, not {broad_fraction}")
    began, infos, lengths, dropped = time.perf_counter(), [], [], _Dropped()
    expected = max_steps or (float(np.mean(store.lengths)) if len(store) else 1.0)

    def more(finished: int, running: list[int]) -> bool:
        return finished - dropped.steps + sum(max(expected, length) for length in running) < steps

    def options(seed: int) -> dict | None:
        return {"broad": True} if is_broad(seed, broad_fraction) else None

    def run(on_step) -> None:
        for episode in rollout(policy, vector_env, seeds, options, on_step, max_steps, name=name, more=more):
            if successful_only and not dropped.keeps(episode):
                continue
            store.append({key: value for key, value in episode.items() if not is_goal(key)})
            infos.append(episode["info"])
            lengths.append(len(episode["reward"]))

    if progress is None:
        run(on_step)
    else:
        with progress.phase(label, steps, unit="steps") as bar:
            run(bar.advance)

    seconds = time.perf_counter() - began
    returns = [info["return"] for info in infos]
    successes = [info["success"] for info in infos if info["success"] is not None]
    successes += [False] * dropped.episodes
    return {
        "episodes": len(infos),
        "dropped": dropped.episodes,
        "steps": sum(lengths),
        "env_steps": sum(info["env_steps"] for info in infos) + dropped.env_steps,
        "return_mean": float(np.mean(returns)) if returns else None,
        "return_max": max(returns, default=None),
        "success_rate": float(np.mean(successes)) if successes else None,
        "broad_episodes": sum(is_broad(info["seed"], broad_fraction) for info in infos),
        "seconds": seconds,
        "steps_per_second": sum(lengths) / max(seconds, 1e-9),
    }


class _Dropped:
    """What was run and not stored, because it failed."""

    def __init__(self):
        self.episodes = self.steps = self.env_steps = self._in_a_row = 0

    def keeps(self, episode: Episode) -> bool:
        """Whether the episode succeeded; counts it if not."""
        info = episode["info"]
        if info["success"] is None:
            raise ValueError("this env never says whether it succeeded: take collect.successful_only=false")
        if info["success"]:
            self._in_a_row = 0
            return True
        self.episodes, self.steps = self.episodes + 1, self.steps + len(episode["reward"])
        self.env_steps, self._in_a_row = self.env_steps + info["env_steps"], self._in_a_row + 1
        if self._in_a_row == FAILURES:
            raise ValueError(
                f"{FAILURES} episodes in a row without a success: give them more time (collect.max_steps, "
                "env.max_episode_steps), less policy.noise, or take collect.successful_only=false. What succeeded before "
                "is stored"
            )
        return False


def first_policy(name: str, interface: Interface, seed: int, options: Mapping) -> Policy:
    """Who acts before anything is learned, `random` or `expert`, as `training.collect` says."""
    if name == "expert":
        return ExpertPolicy(interface, seed, options["expert_noise"])
    return RandomPolicy(interface, seed, **options["policy"])


def next_seed(store: EpisodeStore, base: int, count: int) -> int:
    """The first of the `count` seeds from `base` on that no episode of the store was made with, nor one before it: where
    failed episodes are left out, there are more of them than episodes."""
    used = [info["seed"] for info in store.infos if info.get("seed") is not None]
    return max([seed + 1 for seed in used if base <= seed < base + count], default=base)
