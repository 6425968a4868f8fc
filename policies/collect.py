"""Adds episodes of a policy to a store until it has enough steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from policies.policy import Policy
from policies.rollout import rollout

if TYPE_CHECKING:
    from worldmodel.data import EpisodeStore
    from worldmodel.progress import Progress

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
    name: str | None = None,
    label: str = "collect",
    progress: Progress | None = None,
    on_step: Callable[[int], None] | None = None,
) -> dict:
    """Append whole episodes to `store` until at least `steps` agent steps were added.

    Every step that was run is stored: a row takes another episode only while the finished steps and those expected of
    the running episodes fall short, so that the store exceeds `steps` by less than one episode a row. An episode is
    expected to last `max_steps`, or as long as the store's mean; with neither, every row runs at least once.

    Args:
        seeds: one is taken per episode (the summary's `episodes` says how many); a resumed run skips those.
        broad_fraction: share of the episodes that start anywhere in the state space (`is_broad`), where the env can.
        max_steps: agent steps after which an episode is cut: many short episodes cover more than a few long ones.
        name: of the policy, in each episode's info.
        progress: shows a bar of this collection, named `label`.
        on_step: called with the number of agent steps just taken, for a bar of the caller's own.

    Returns:
        `episodes`, `steps`, `env_steps`, `return_mean`, `return_max`, `success_rate` (None where the env never says),
        `broad_episodes`, `seconds`, `steps_per_second`.
    """
    if not 0.0 <= broad_fraction <= 1.0:
        raise ValueError(f"the fraction of broad starts is between 0 and 1, not {broad_fraction}")
    began, infos, lengths = time.perf_counter(), [], []
    expected = max_steps or (float(np.mean(store.lengths)) if len(store) else 1.0)

    def more(finished: int, running: list[int]) -> bool:
        return finished + sum(max(expected, length) for length in running) < steps

    def options(seed: int) -> dict | None:
        return {"broad": True} if is_broad(seed, broad_fraction) else None

    def run(on_step) -> None:
        for episode in rollout(policy, vector_env, seeds, options, on_step, max_steps, name=name, more=more):
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
    return {
        "episodes": len(infos),
        "steps": sum(lengths),
        "env_steps": sum(info["env_steps"] for info in infos),
        "return_mean": float(np.mean(returns)) if returns else None,
        "return_max": max(returns, default=None),
        "success_rate": float(np.mean(successes)) if successes else None,
        "broad_episodes": sum(is_broad(info["seed"], broad_fraction) for info in infos),
        "seconds": seconds,
        "steps_per_second": sum(lengths) / max(seconds, 1e-9),
    }
