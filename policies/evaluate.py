"""Scores policies on the same seeds, with intervals, so that a stranger can run the result again and compare."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from policies.policy import Observation, Policy
from policies.rollout import Episode, rollout
from worldmodel.provenance import commit, machine, mean_interval, versions, wilson

if TYPE_CHECKING:
    from rich.console import Group

    from worldmodel.progress import Progress

JUDGED = ("success", "success_step", "late_success", "late_reward")  # what an episode's info says of how it went
SEEDS = range(10_000, 1_000_000)  # of evaluation; validation while training lies below, collection above


class _Timed:
    """Passes a policy through and keeps how long each decision took."""

    def __init__(self, policy: Policy):
        self.policy, self.milliseconds = policy, []

    def reset(self, observation: Observation, mask: np.ndarray | None = None) -> None:
        self.policy.reset(observation, mask)

    def act(self, observation: Observation) -> np.ndarray:
        began = time.perf_counter()
        actions = self.policy.act(observation)
        self.milliseconds.append((time.perf_counter() - began) * 1e3)
        return actions


def evaluate(
    policies: Mapping[str, Policy],
    make_vector: Callable[[int], Any],
    *,
    episodes: int = 10,
    seed: int = SEEDS.start,
    envs: int = 5,
    confidence: float = 0.95,
    context: dict[str, Any] | None = None,
    max_steps: int | None = None,
    fewer: Mapping[str, int] | None = None,
    unsolved: bool = False,
    on_episode: Callable[[str, Episode], None] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run every policy on the same seeds `seed, seed + 1, ...` and return what eval.json holds.

    Args:
        policies: by name; baselines (random, hold still) are policies like the others.
        make_vector: makes a vector env of so many rows; closed again here.
        envs: rows run side by side, at most `episodes`.
        context: written into the result as it is: config, command, checkpoint, whether privileged state was used.
        max_steps: cuts episodes (a debug run); the result says so.
        fewer: for policies that think long, how many of the seeds (the first ones) they get.
        unsolved: pass over the seeds whose episodes start with success.
        on_episode: given each policy's name and finished episodes in the order of their seeds, to keep one for a video.

    Returns:
        `policies`: for each name its `episodes` (seed, return, success and when, what the second half was like, length,
        env_steps), `return` and `success` (mean or rate, low, high), `late_success` and `late_reward` (means over the
        episodes of the second half's success and reward), `length`, `decision_ms` (median, of `rows` rows at once),
        `execution` (what a policy's own `report()` says, of those that have one) and `seconds`; `best`, the name with the
        highest mean return; `seeds`, `rows`, `confidence`, `max_steps`, `context`, `machine`, `commit`, `versions`,
        `seconds`. The interval of the return is a bootstrap of the mean, that of the success rate
        Wilson's; both null where one episode tells nothing.

    Raises:
        ValueError: no policy or no episode, or seeds that training may have used.
    """
    if seed < SEEDS.start or seed + episodes > SEEDS.stop:
        raise ValueError(
            f"eval.seed={seed} with eval.episodes={episodes} overlaps training's seeds: evaluation's are {SEEDS.start} to "
            f"{SEEDS.stop - 1}; use eval.seed={SEEDS.start}"
        )
    if episodes < 1 or envs < 1:
        raise ValueError(f"eval.episodes={episodes} and eval.envs={envs} must both be at least 1")
    if not policies:
        raise ValueError("there is no policy to evaluate; name one with policy=actor, planner, random or hold_still")
    began, rows = time.perf_counter(), min(envs, episodes)
    seeds = list(itertools.islice(_seeds(make_vector, seed, unsolved), episodes))
    scores = {}
    for count in sorted({min(episodes, (fewer or {}).get(name, episodes)) for name in policies}, reverse=True):
        vector_env = make_vector(min(rows, count))  # idle rows would be planned for too
        try:
            for name, policy in policies.items():
                if min(episodes, (fewer or {}).get(name, episodes)) == count:
                    scores[name] = _score(
                        name, policy, vector_env, seeds[:count], confidence, max_steps, on_episode, progress
                    )
        finally:
            vector_env.close()
    return {
        "best": max(scores, key=lambda name: scores[name]["return"]["mean"]),
        "policies": scores,
        "seeds": [seeds[0], seeds[-1]],
        "rows": rows,
        "confidence": confidence,
        "max_steps": max_steps,
        "context": context or {},
        "machine": machine(),
        "commit": commit(),
        "versions": versions(),
        "seconds": time.perf_counter() - began,
    }


def compare(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Does a second run of an eval.json agree with the first?

    A policy is `identical` where every episode has the same return and length, `within the interval` where the two
    intervals of the mean overlap, else `different`; `missing` where only one result has it. The same machine, versions
    and clean commit should give `identical`, but for a planner that plans against the clock.

    Returns:
        `agrees` (bool: all identical or within the interval), `identical` (bool: all identical), `policies` (for each
        name `verdict`, `old` and `new` mean, `largest_difference` of an episode's return), `changed` (what differs
        between the two runs: machine, commit, versions), `message` (one sentence for the user).
    """
    verdicts = {}
    for name in [*old["policies"], *(name for name in new["policies"] if name not in old["policies"])]:
        before, after = old["policies"].get(name), new["policies"].get(name)
        verdicts[name] = {"verdict": "missing"} if before is None or after is None else _verdict(before, after)
    changed = _changed(old, new)
    found = [verdict["verdict"] for verdict in verdicts.values()]
    identical = all(verdict == "identical" for verdict in found)
    agrees = all(verdict in ("identical", "within the interval") for verdict in found)
    if identical:
        message = "agrees: every episode has the same return and length"
    elif agrees:
        reason = (
            "; ".join(changed) if changed else "though machine, versions and commit are the same (a timed planner?)"
        )
        message = f"agrees within the intervals, not episode by episode: {reason}"
    else:
        names = ", ".join(name for name, verdict in verdicts.items() if verdict["verdict"] in ("different", "missing"))
        message = f"does not agree: {names}" + (f"; what changed: {'; '.join(changed)}" if changed else "")
    return {"agrees": agrees, "identical": identical, "policies": verdicts, "changed": changed, "message": message}


def format_table(results: dict[str, Any], paths: Mapping[str, str | Path] | None = None) -> Group:
    """The result as a table of policies, best first, above the path of every file (`paths`: label to path), printed
    whole so that it can be copied."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    episodes = max(len(score["episodes"]) for score in results["policies"].values())
    table = Table(
        title=f"{episodes} episodes, seeds {results['seeds'][0]} to {results['seeds'][-1]}", title_justify="left"
    )
    table.add_column("policy")
    for column in ("episodes", "return", f"{results['confidence']:.0%} interval", "success", "steps", "ms a decision"):
        table.add_column(column, justify="right")
    for name, score in sorted(results["policies"].items(), key=lambda item: -_number(item[1]["return"]["mean"])):
        success = score["success"]
        table.add_row(
            Text(name, style="bold" if name == results["best"] else ""),
            str(len(score["episodes"])),
            f"{_number(score['return']['mean']):.1f}",
            _range(score["return"], "{:.1f}"),
            "-" if success is None else f"{success['rate']:.0%} ({_range(success, '{:.0%}')})",
            f"{score['length']:.0f}",
            f"{score['decision_ms']:.1f}",
        )
    files = Table.grid(padding=(0, 2))
    files.add_column(no_wrap=True)
    files.add_column(overflow="fold")
    for label, path in (paths or {}).items():
        files.add_row(label, Text(str(path)))
    return Group(table, files)


def _score(name, policy, vector_env, seeds, confidence, max_steps, on_episode, progress) -> dict[str, Any]:
    """One policy's entry of eval.json."""
    began, timed, records = time.perf_counter(), _Timed(policy), []

    def run(bar=None) -> None:
        # Episodes end seldom and several at once; the note shows that something moves between.
        on_step = None if bar is None else lambda _: bar.note(f"step {len(timed.milliseconds)}")
        for episode in rollout(timed, vector_env, seeds, on_step=on_step, max_steps=max_steps, name=name):
            info = episode["info"]
            kept = {key: info[key] for key in ("seed", "return", *JUDGED, "env_steps")}
            records.append({**kept, "length": len(episode["reward"])})
            if on_episode is not None:
                on_episode(name, episode)
            if bar is not None:
                bar.advance(1)

    if progress is None:
        run()
    else:
        with progress.phase(f"evaluate {name}", len(seeds), unit="episodes") as bar:
            run(bar)

    mean, low, high = mean_interval([record["return"] for record in records], confidence)
    judged = [record["success"] for record in records if record["success"] is not None]
    rate = dict(zip(("rate", "low", "high"), wilson(sum(judged), len(judged), confidence), strict=True))
    return {
        "return": {"mean": mean, "low": low, "high": high},
        "success": rate if judged else None,
        "length": float(np.mean([record["length"] for record in records])),
        **{key: _mean([record[key] for record in records]) for key in ("late_success", "late_reward")},
        "decision_ms": float(np.median(timed.milliseconds)),
        **({"execution": policy.report()} if hasattr(policy, "report") else {}),
        "seconds": time.perf_counter() - began,
        "episodes": records,
    }


def _seeds(make_vector: Callable[[int], Any], seed: int, unsolved: bool) -> Iterator[int]:
    """All seeds from `seed` on, but for those whose episodes are solved as they start."""
    if not unsolved:
        yield from itertools.count(seed)
    vector_env = make_vector(1)
    try:
        for number in itertools.count(seed):
            _, infos = vector_env.reset([number])
            if "success" not in infos or not infos["success"][0]:
                yield number
    finally:
        vector_env.close()


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _verdict(before: dict, after: dict) -> dict[str, Any]:
    """How two entries of the same policy differ."""

    def rows(score: dict) -> dict[int, tuple]:
        return {episode["seed"]: (episode["return"], episode["length"]) for episode in score["episodes"]}

    first, second = rows(before), rows(after)
    shared = first.keys() & second.keys()
    if first == second:
        verdict = "identical"
    else:
        verdict = "within the interval" if _overlap(before["return"], after["return"]) else "different"
    return {
        "verdict": verdict,
        "old": before["return"]["mean"],
        "new": after["return"]["mean"],
        "largest_difference": max((abs(first[seed][0] - second[seed][0]) for seed in shared), default=None),
    }


def _overlap(first: dict, second: dict) -> bool:
    """Do two intervals meet? Without an interval (one episode) only equal means do."""
    ends = [first["low"], first["high"], second["low"], second["high"]]
    if any(math.isnan(_number(end)) for end in ends):
        return first["mean"] == second["mean"]
    return first["low"] <= second["high"] and second["low"] <= first["high"]


def _changed(old: dict, new: dict) -> list[str]:
    """What differs between the two runs' circumstances, in words."""
    changed = []
    for key in ("rows", "max_steps"):
        if old[key] != new[key]:
            changed.append(f"{key} {old[key]} -> {new[key]}")
    for group in ("machine", "versions"):
        for key in sorted(old[group].keys() | new[group].keys()):
            before, after = old[group].get(key), new[group].get(key)
            if before != after:
                changed.append(f"{key} {before} -> {after}")
    if old["commit"] != new["commit"] or old["commit"]["dirty"]:
        changed.append(f"commit {_commit(old)} -> {_commit(new)}")
    return changed


def _commit(results: dict) -> str:
    found = results["commit"]
    return "unknown" if found["hash"] is None else found["hash"][:8] + (" with changes" if found["dirty"] else "")


def _number(value: float | None) -> float:
    """JSON's null is NaN again."""
    return math.nan if value is None else value


def _range(interval: dict, form: str) -> str:
    low, high = _number(interval["low"]), _number(interval["high"])
    return "-" if math.isnan(low) else f"{form.format(low)} to {form.format(high)}"
