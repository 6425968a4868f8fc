"""Is language used? The same scenes with other sentences, and what of all that could have been asked for came about."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from policies.policy import Policy

BLANK = ""


def language_report(
    policy: Policy,
    env,
    seeds: Iterable[int],
    max_steps: int | None = None,
    on_scene: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Run the policy in every scene with every kind of instruction that the scene allows, as it is said in training, said
    in other words, and with none.

    Each episode ends when what was given is done, or at the env's limit; then all kinds are judged. A policy that follows
    language does what it was given (the diagonal) and seldom something else; one that ignores it has equal rows.

    Args:
        env: of `envs.make`, not a vector: the env inside offers `alternatives(rng)` and `is_done(sentence)`, as
            `worldmodel/Tabletop-v0` does.
        seeds: one per scene.
        max_steps: ends an episode after so many agent steps.
        on_scene: called after each.

    Returns:
        `success`: given kind, `paraphrase: <kind>` or `blank` to judged kind to the share of episodes in which it was so at
        the end; `episodes`: given to how many; `followed`, `paraphrased`: mean of what was given, over kinds; `else`: mean
        of what was not, over all pairs of kinds; `blank`: mean over kinds of what is done unasked.

    Raises:
        ValueError: the env inside takes no instructions.
    """
    if not hasattr(env.unwrapped, "alternatives"):
        raise ValueError(f"{type(env.unwrapped).__name__} takes no instructions: try env.id=worldmodel/Tabletop-v0")
    judged: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for seed in seeds:
        env.reset(seed=seed)
        asked = env.unwrapped.alternatives(np.random.default_rng(seed))
        given = {kind: seen for kind, (seen, _) in asked.items()}
        given |= {f"paraphrase: {kind}": other for kind, (_, other) in asked.items()} | {"blank": BLANK}
        for name, sentence in given.items():
            _episode(policy, env, seed, sentence, max_steps)
            for kind, (seen, _) in asked.items():
                judged[name][kind].append(env.unwrapped.is_done(seen))
        if on_scene is not None:
            on_scene()
    success = {name: {kind: float(np.mean(hits)) for kind, hits in row.items()} for name, row in judged.items()}
    kinds = [name for name in success if name in success[name]]
    others = [success[a][b] for a in kinds for b in kinds if a != b and b in success[a]]
    return {
        "success": success,
        "episodes": {name: max(len(hits) for hits in row.values()) for name, row in judged.items()},
        "followed": float(np.mean([success[kind][kind] for kind in kinds])),
        "paraphrased": float(np.mean([success[f"paraphrase: {kind}"][kind] for kind in kinds])),
        "else": float(np.mean(others)) if others else None,
        "blank": float(np.mean(list(success["blank"].values()))),
    }


def _episode(policy: Policy, env, seed: int, sentence: str, max_steps: int | None) -> None:
    """One episode of one row; the env is left as it ended."""
    observation, _ = env.reset(seed=seed)
    steps = 0
    policy.reset(_row(observation, sentence))
    while max_steps is None or steps < max_steps:
        action = policy.act(_row(observation, sentence))[0]
        observation, _, terminated, truncated, _ = env.step(np.clip(action, -1, 1))
        steps += 1
        if terminated or truncated or (sentence != BLANK and env.unwrapped.is_done(sentence)):
            return


def _row(observation: dict, sentence: str) -> dict[str, np.ndarray]:
    return {key: value[None] for key, value in observation.items()} | {"instruction": np.array([sentence], object)}


def as_table(report: dict[str, Any]) -> str:
    """The success matrix as Markdown: a row for what was given, a column for what was judged."""
    kinds = list(next(iter(report["success"].values())))
    for row in report["success"].values():
        kinds += [kind for kind in row if kind not in kinds]
    lines = ["| given | " + " | ".join(kinds) + " | episodes |", "|---" * (len(kinds) + 2) + "|"]
    for name, row in report["success"].items():
        cells = [f"{row[kind]:.2f}" if kind in row else "" for kind in kinds]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {report['episodes'][name]} |")
    return "\n".join(lines)
