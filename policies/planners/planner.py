"""What all planners share: their interface, their options' checks, the clock, the warm start, the best plan so far."""

from __future__ import annotations

import abc
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

Score = Callable[[Tensor], Tensor]
"""Judges candidates: actions `[B, C, H, A]` to scores `[B, C]`, higher is better. It has to answer the same to the same
actions within one call of `plan`; NaN and infinite scores mark candidates that must not be chosen."""


class PlanningError(RuntimeError):
    """No candidate of some row could be scored."""


@dataclass(frozen=True)
class Plan:
    """The best plan found.

    Attributes:
        actions: `[B, H, A]` in [-1, 1]; exact one-hot vectors for discrete envs.
        score: `[B]`, the score that these very actions got.
        iterations: rounds of candidates that were scored.
        elapsed_ms: wall time of the whole call.
    """

    actions: Tensor
    score: Tensor
    iterations: int
    elapsed_ms: float


class Planner(abc.ABC):
    """Optimises action sequences against a score, for B rows (envs) at once, and knows nothing of models.

    Args:
        action_dim: A, numbers per action; choices where `discrete`.
        discrete: actions are one-hot.
        horizon: H, steps per plan.
        iterations: rounds of candidates per plan.
        proposals: how many candidates a caller that has an actor should draw from it and hand to `plan`.
        budget_ms: a deadline instead of `iterations`: rounds go on while another one is expected to end in time, judged
            by the last one's duration. The first round always runs, so a budget below its cost is overrun.
        compile: whether a caller that imagines the score should compile its steps.
        device: where actions are made; that of the score, of the proposals and of the generator.

    Raises:
        ValueError: naming the option that does not make sense.
    """

    def __init__(
        self,
        action_dim: int,
        discrete: bool = False,
        *,
        horizon: int,
        iterations: int,
        proposals: int = 0,
        budget_ms: float | None = None,
        compile: bool = False,
        device: torch.device | str = "cpu",
    ):
        self.action_dim = whole("action_dim", action_dim, 1)
        self.discrete = bool(discrete)
        self.horizon = whole("horizon", horizon, 1)
        self.iterations = whole("iterations", iterations, 1)
        self.proposals = whole("proposals", proposals, 0)
        self.budget_ms = None if budget_ms is None else real("budget_ms", budget_ms, above=0.0)
        self.compile = bool(compile)
        self.device = torch.device(device)
        self._previous: Tensor | None = None  # [B, H, A], the plans returned last
        self._warm: Tensor | None = None  # bool [B], the rows whose last plan may be built on
        self._given_start: Tensor | None = None  # [B, H, A], what the present plan begins at instead
        self._closing_ms: float | None = None  # what scoring one last candidate took, for the next deadline

    def plan(
        self,
        score: Score,
        rows: int,
        proposals: Tensor | None = None,
        generator: torch.Generator | None = None,
        start: Tensor | None = None,
    ) -> Plan:
        """Search for the action sequences that score highest.

        The first round holds the last plan shifted by one step (its last action repeated; a plan of zeros after a
        reset) and all proposals, so the result is never worse than any of them.

        Args:
            score: see `Score`. A gradient planner differentiates it.
            rows: B.
            proposals: `[B, P, H, A]`, candidates to begin with, for instance an actor's.
            generator: where all randomness comes from; torch's own if None.
            start: `[B, H, A]`, a plan to begin at in place of the last one, which is forgotten. For a caller that
                plans only now and then, and knows better.

        Raises:
            ValueError: proposals or scores of the wrong shape, proposals that are not finite, or another number of rows
                than the last plan had, without a reset.
            PlanningError: all scores of some row were NaN or infinite.
        """
        clock = Clock(self.iterations, self.budget_ms, self._closing_ms)
        proposals = self._checked_proposals(rows, proposals)
        self._given_start = None
        if start is not None:
            self.reset()
            self._given_start = self._checked_proposals(rows, start[:, None])[:, 0]
        if self._warm is None:
            self._previous = torch.zeros(rows, self.horizon, self.action_dim, device=self.device)
            self._warm = torch.zeros(rows, dtype=torch.bool, device=self.device)
        elif len(self._warm) != rows:
            raise ValueError(
                f"asked to plan for {rows} rows after planning for {len(self._warm)}: call planner.reset() before the "
                "number of envs changes"
            )
        best = Best(score)
        self._search(best, clock, proposals, generator)
        actions, scores = best.result()
        self._previous = actions
        self._warm = torch.ones_like(self._warm)
        self._closing_ms = clock.closing_ms
        return Plan(actions, scores, clock.rounds, clock.elapsed_ms())

    def reset(self, mask: Tensor | None = None) -> None:
        """Forget the last plans of the rows where `mask` (bool `[B]`, tensor or array; all rows when None) is true. A
        mask of another length than the last plans' tells that the envs are others: everything is forgotten."""
        if mask is None or self._warm is None or len(mask) != len(self._warm):
            self._previous = self._warm = None
        else:
            self._warm = self._warm & ~torch.as_tensor(mask, dtype=torch.bool, device=self.device)

    @abc.abstractmethod
    def _search(self, best: Best, clock: Clock, proposals: Tensor, generator: torch.Generator | None) -> None:
        """Score candidates through `best` until `clock` ends."""

    def _shifted(self) -> Tensor:
        """Where the search starts, `[B, H, A]`: what `plan` was given, or the last plan moved on by one step, zeros in rows
        that were reset."""
        if self._given_start is not None:
            return self._given_start
        return shift(self._previous) * self._warm[:, None, None]

    def _start(self) -> Tensor:
        """The same as a candidate: for discrete envs, the first choice where a row was reset."""
        return one_hot(self._shifted()) if self.discrete else self._shifted()

    def _checked_proposals(self, rows: int, proposals: Tensor | None) -> Tensor:
        shape = (rows, self.horizon, self.action_dim)
        if proposals is None:
            return torch.empty(rows, 0, *shape[1:], device=self.device)
        if proposals.ndim != 4 or (proposals.shape[0], *proposals.shape[2:]) != shape:
            raise ValueError(
                f"proposals have shape {tuple(proposals.shape)}, expected (rows={rows}, any, "
                f"planner.horizon={self.horizon}, action_dim={self.action_dim})"
            )
        if not torch.isfinite(proposals).all():
            raise ValueError("proposals hold NaN or infinite actions: the actor that made them is broken")
        return one_hot(proposals) if self.discrete else proposals.float().clamp(-1.0, 1.0)


class Best:
    """Scores candidates and remembers the best of each row."""

    def __init__(self, score: Score):
        self._score = score
        self._actions: Tensor | None = None
        self._scores: Tensor | None = None
        self._said = ""

    def __call__(self, candidates: Tensor) -> Tensor:
        """Scores `[B, C]` of candidates `[B, C, H, A]`, -inf where NaN or infinite; as differentiable as the score."""
        raw = self._score(candidates)
        if raw.shape != candidates.shape[:2]:
            raise ValueError(
                f"score returned shape {tuple(raw.shape)} for candidates of shape {tuple(candidates.shape)}, "
                f"expected (rows, candidates) = {tuple(candidates.shape[:2])}"
            )
        scores = raw.float().nan_to_num(-math.inf, -math.inf, -math.inf)
        top, index = scores.detach().max(1)
        actions = candidates.detach()[torch.arange(len(index), device=index.device), index]
        if self._scores is None:
            self._actions, self._scores = actions, top
        else:
            better = top > self._scores
            self._actions = torch.where(better[:, None, None], actions, self._actions)
            self._scores = torch.maximum(top, self._scores)
        return scores

    def wait(self) -> None:
        """Let the device finish, so that the clock tells the truth."""
        self._scores[0].item()

    def result(self) -> tuple[Tensor, Tensor]:
        """Actions `[B, H, A]` and scores `[B]`."""
        if lost := torch.isneginf(self._scores).nonzero().flatten().tolist():
            raise PlanningError(
                f"every candidate of row {', '.join(map(str, lost))} of {len(self._scores)} scored NaN or infinity: "
                "the model or the critic has diverged, or the observation it was given is not finite"
            )
        return self._actions, self._scores


class Clock:
    """Tells a search how long to go on: a number of rounds, or as many as end before the deadline."""

    def __init__(self, iterations: int, budget_ms: float | None, closing_ms: float | None):
        self._started = time.perf_counter()
        self._iterations, self._budget_ms = iterations, budget_ms
        self.rounds = 0
        self.closing_ms = closing_ms

    def elapsed_ms(self) -> float:
        """Milliseconds since the search began."""
        return (time.perf_counter() - self._started) * 1e3

    def search(self, best: Best) -> Iterator[tuple[int, bool]]:
        """Yield each round's number and whether it is surely the last one; a deadline may end the search after any."""
        if self._budget_ms is None:
            for round_ in range(self._iterations):
                yield round_, round_ + 1 == self._iterations
                self.rounds += 1
            return
        round_ms, closing_ms, last = 0.0, self.closing_ms, False
        while not last:
            began = self.elapsed_ms()
            last = self.rounds > 0 and began + 2 * round_ms + closing_ms > self._budget_ms
            yield self.rounds, last
            best.wait()
            self.rounds += 1
            round_ms = self.elapsed_ms() - began
            closing_ms = round_ms if self.closing_ms is None else self.closing_ms
            if self.elapsed_ms() + round_ms + closing_ms > self._budget_ms:
                return

    def close(self, best: Best, candidate: Tensor) -> None:
        """Score one last candidate `[B, 1, H, A]`, if there is time left, and note what that takes."""
        began = self.elapsed_ms()
        if self._budget_ms is not None and began + (self.closing_ms or 0.0) > self._budget_ms:
            return
        best(candidate)
        best.wait()
        self.closing_ms = self.elapsed_ms() - began


def shift(plans: Tensor) -> Tensor:
    """Plans `[..., H, A]` one step later; the last action is repeated."""
    return torch.cat([plans[..., 1:, :], plans[..., -1:, :]], -2)


def one_hot(preferences: Tensor) -> Tensor:
    """The largest of the last dimension as an exact one-hot float vector."""
    return F.one_hot(preferences.argmax(-1), preferences.shape[-1]).float()


def whole(name: str, value: int, least: int) -> int:
    """`value` if it is a whole number of at least `least`, else ValueError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"planner.{name}={value!r}: must be a whole number of at least {least}")
    return value


def real(
    name: str, value: float, *, above: float | None = None, least: float = -math.inf, most: float = math.inf
) -> float:
    """`value` if it is a finite number above `above` and from `least` to `most`, else ValueError."""
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not fits or not least <= value <= most or (above is not None and value <= above):
        bounds = [
            f"above {above:g}" if above is not None else "",
            f"at least {least:g}" if least > -math.inf else "",
            f"at most {most:g}" if most < math.inf else "",
        ]
        raise ValueError(f"planner.{name}={value!r}: must be a number {' and '.join(filter(None, bounds))}")
    return float(value)
