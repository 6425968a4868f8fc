"""The phases of a training run as a list of small chunks: what a resumed run skips, and what random numbers hang on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

VALIDATION_SEED = 5000  # evaluation's seeds start at 10000, see policies/evaluate.py
COLLECTION_SEED = 1_000_000  # so that no episode is trained on and evaluated
UPDATES_PER_CHUNK = 100  # a chunk is the most work between two chances to checkpoint


@dataclass(frozen=True)
class Chunk:
    """One piece of work, done whole or not at all.

    Attributes:
        kind: `collect` (exploring policy), `act` (current policy), `learn` (world model), `behave` (actor and critic),
            `validate`, `measure` (the distance between latents).
        phase: the phase it belongs to, for metrics and progress: `collect`, `pretrain`, `imagine`, `online` or `goals`.
        amount: agent steps or updates.
        round: of the online loop, from 1; 0 before it.
    """

    kind: str
    phase: str
    amount: int = 0
    round: int = 0

    @property
    def work(self) -> int:
        """What a progress bar counts of it: updates, or steps of the first exploration."""
        return self.amount if self.kind in ("learn", "behave", "collect", "measure") else 0


def round_updates(training: dict) -> tuple[int, int]:
    """Updates of the world model and of the behaviour in one round of the online loop, from the ratios."""
    online = training["online"]
    learn = round(online["steps"] * online["train_ratio"] / (training["batch_size"] * training["window"]))
    return learn, round(learn * online["behavior_ratio"])


def with_automatic(training: dict, told: bool, to_goals: bool) -> dict:
    """The config group `training` with numbers where it has null for "what suits the task".

    Args:
        told: whether the model is told where things are, by the simulator's state or by the picture's colours.
        to_goals: whether it is trained for goal images.
    """
    policy, boost = dict(training["collect"]["policy"]), training["sigreg_boost"]
    if policy["gentle"] is None:  # distances to goal images are counted in steps at full speed
        policy["gentle"] = 0.0 if to_goals else 0.25
    if boost is None:  # a strong one finds what rewards do not show at once, a weak one then makes latents smooth
        boost = 1.0 if told else 10.0
    return training | {"collect": training["collect"] | {"policy": policy}, "sigreg_boost": boost}


def schedule(training: dict, offline: bool, goal_updates: int | None = None) -> list[Chunk]:
    """All chunks of a run, from the config group `training`.

    Offline, the updates of the online rounds are spent on the given data instead: first the world model's, then those
    of actor and critic. With `goal_updates` (objective=goal_image) there is no actor, so that nothing more is collected,
    and the distance between latents is learned instead."""
    online = training["online"]
    learn, behave = round_updates(training)
    rounds = online["rounds"]
    pretrain, imagine = training["pretrain"]["updates"], training["imagine"]["updates"]
    chunks = [] if offline else [Chunk("collect", "collect", training["collect"]["steps"])]
    chunks += _split("learn", "pretrain", pretrain + (offline or goal_updates is not None) * rounds * learn)
    if goal_updates is not None:
        return chunks + _split("measure", "goals", goal_updates, size=1000)
    behaviors = _split("behave", "imagine", imagine + offline * rounds * behave)
    for done, chunk in enumerate(behaviors, start=1):
        chunks.append(chunk)
        if done == len(behaviors) or (offline and done % 5 == 0):
            chunks.append(Chunk("validate", "imagine"))
    for number in [] if offline else range(1, rounds + 1):
        chunks.append(Chunk("act", "online", online["steps"], number))
        chunks += _split("learn", "online", learn, number) + _split("behave", "online", behave, number)
        chunks.append(Chunk("validate", "online", 0, number))
    return chunks


def _split(kind: str, phase: str, updates: int, number: int = 0, size: int = UPDATES_PER_CHUNK) -> list[Chunk]:
    whole, rest = divmod(updates, size)
    sizes = [size] * whole + ([rest] if rest else [])
    return [Chunk(kind, phase, size, number) for size in sizes]


def chunk_seed(seed: int, chunk: int, rank: int = 0) -> int:
    """The seed of one chunk in one process: nothing random survives a chunk, so nothing of it needs saving."""
    return int(np.random.SeedSequence([seed, chunk, rank]).generate_state(1)[0])
