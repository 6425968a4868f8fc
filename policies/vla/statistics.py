"""Normalisation statistics of states and actions: measured on the demonstrations, kept with the weights."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from worldmodel.data import EpisodeStore, StoreDamaged, train_episodes
from worldmodel.data.layout import VALUES
from worldmodel.interface import Interface

NARROW = 1e-4  # a range or a spread below this says nothing: the dimension never moved
MEND = "train it again with worldmodel imitate, or load the checkpoint that these statistics belong to"


class StatisticsError(ValueError):
    """Statistics are missing, or of another size than what they shall normalise; the message names the key."""


@dataclass(frozen=True)
class KeyStatistics:
    """Of one key's numbers, per dimension: lists of D floats.

    Attributes:
        mean, std: over all steps.
        q01, q99: the 1st and the 99th percentile, which a few outliers do not move (Kim et al. 2024, section 3.2).
        low, high: the least and the greatest.
    """

    mean: list[float]
    std: list[float]
    q01: list[float]
    q99: list[float]
    low: list[float]
    high: list[float]

    @classmethod
    def of(cls, rows: np.ndarray) -> KeyStatistics:
        """Of rows `[n, D]`."""
        rows = rows.astype(np.float64)
        quantiles = np.quantile(rows, [0.01, 0.99], axis=0)
        return cls(*(part.tolist() for part in (rows.mean(0), rows.std(0), *quantiles, rows.min(0), rows.max(0))))

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, float32 `[D]`; 1 where a dimension never moved."""
        std = torch.tensor(self.std)
        return torch.tensor(self.mean), torch.where(std < NARROW, torch.ones_like(std), std)

    def range(self) -> tuple[Tensor, Tensor]:
        """Both percentiles, float32 `[D]`. Where they coincide, as in a gripper that is closed once in a hundred steps, the
        least and the greatest; where these do too, one unit around them."""
        q01, q99, low, high = (torch.tensor(part) for part in (self.q01, self.q99, self.low, self.high))
        rare = q99 - q01 < NARROW
        q01, q99 = torch.where(rare, low, q01), torch.where(rare, high, q99)
        still = q99 - q01 < NARROW
        return torch.where(still, q01 - 0.5, q01), torch.where(still, q99 + 0.5, q99)


@dataclass(frozen=True)
class Statistics:
    """Of every key that a policy normalises.

    Attributes:
        action: of actions `[A]`.
        state: of the state vector `[S]`; None where the env has none.
    """

    action: KeyStatistics
    state: KeyStatistics | None = None

    @classmethod
    def of_store(cls, store: EpisodeStore, episodes: list[int] | None = None) -> Statistics:
        """Of the steps of some episodes, those that are trained on by default. Damaged ones don't count.

        Raises:
            StatisticsError: there is no readable step.
        """
        columns, actions, states = store.layout.columns, [], []
        for episode in train_episodes(store) if episodes is None else episodes:
            with contextlib.suppress(StoreDamaged):
                rows = store.rows(int(episode), VALUES)[VALUES]
                actions.append(rows[:-1, columns["action"]])
                if "state" in columns:
                    states.append(rows[:, columns["state"]])
        if not actions:
            raise StatisticsError(f"{store.folder} has no readable episode to take statistics from")
        state = KeyStatistics.of(np.concatenate(states)) if states else None
        return cls(KeyStatistics.of(np.concatenate(actions)), state)

    def to_dict(self) -> dict:
        """Plain JSON types; `from_dict` reads it back."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    @classmethod
    def from_dict(cls, value: dict | None, interface: Interface, where: str = "the checkpoint") -> Statistics:
        """From a checkpoint's meta, checked against the interface of what is to be normalised.

        Raises:
            StatisticsError: a key is missing or unknown, of another size, or not finite; the message names it.
        """
        sizes = {"action": interface.action_dim, "state": interface.state_dim}
        wanted = {key: size for key, size in sizes.items() if size}
        value = value or {}
        for key in wanted.keys() - value.keys():
            raise StatisticsError(
                f"{where} has no normalisation statistics of {key!r} (it has {sorted(value) or 'none'}): {MEND}"
            )
        for key in value.keys() - wanted.keys():
            raise StatisticsError(
                f"{where} has normalisation statistics of {key!r}, and the policy reads {sorted(wanted)}: {MEND}"
            )
        return cls(**{key: _checked(value[key], key, size, where) for key, size in wanted.items()})


def _checked(value: dict, key: str, size: int, where: str) -> KeyStatistics:
    names = KeyStatistics.__dataclass_fields__
    for name in names:
        if name not in value:
            raise StatisticsError(f"{where} has no {name!r} in the normalisation statistics of {key!r}: {MEND}")
        if len(value[name]) != size:
            raise StatisticsError(
                f"{where} has statistics {key}.{name} of {len(value[name])} numbers, and {key!r} has {size}: {MEND}"
            )
        if not np.isfinite(value[name]).all():
            raise StatisticsError(f"{where} has statistics {key}.{name} that are not finite: {MEND}")
    if unknown := sorted(value.keys() - names.keys()):
        raise StatisticsError(f"{where} has unknown statistics {unknown} of {key!r}: {MEND}")
    return KeyStatistics(**{name: [float(number) for number in value[name]] for name in names})
