"""The loop that MPPI, CEM and iCEM share: draw plans, keep the best, fit the next distribution to them."""

from __future__ import annotations

import abc

import torch
from torch import Tensor

from policies.planners.planner import Best, Clock, Planner, one_hot, real, whole

EXPLORATION = 0.02  # share of the uniform distribution in every fit of a categorical, so that no choice dies out
RECALL = 0.5  # share of the last plan in a categorical's warm start, the rest being uniform
EPSILON = torch.finfo(torch.float32).eps


class SamplingPlanner(Planner):
    """Refits a distribution over plans to its best samples, round after round.

    Continuous actions: independent normals per step and dimension, cut off at the bounds, of standard deviation
    `std_max` in the first round. Discrete ones: a categorical per step, of which samples are exact one-hot vectors;
    `std_max` and `std_min` mean nothing then.

    The first round holds the shifted last plan and the proposals among its `samples`; they stay in the running in later
    rounds, by their first score (TD-MPC2 scores its proposals anew in each). In the end the fitted mean (the likeliest
    choices) is scored by one more call of a single candidate, if a deadline leaves time for it, and the plan is the
    better of it and the best sample: never worse than either, and far better than the best sample where the score is
    smooth.

    Args:
        samples: candidates per round.
        elites: best candidates that the next distribution is fitted to.
        std_max: largest standard deviation, also the first.
        std_min: smallest standard deviation.
        options: see `Planner`.
    """

    momentum = 0.0  # share of the old distribution in the new one
    keep = 0  # best candidates that stay in the running

    def __init__(
        self,
        action_dim: int,
        discrete: bool = False,
        *,
        samples: int,
        elites: int,
        std_max: float,
        std_min: float,
        **options,
    ):
        super().__init__(action_dim, discrete, **options)
        self.samples = whole("samples", samples, 2)
        self.elites = whole("elites", elites, 1)
        if self.elites > self.samples:
            raise ValueError(f"planner.elites={elites} must not exceed planner.samples={samples}")
        self.std_max = real("std_max", std_max, above=0.0)
        self.std_min = real("std_min", std_min, least=0.0)
        if self.std_min > self.std_max:
            raise ValueError(f"planner.std_min={std_min} must not exceed planner.std_max={std_max}")
        self._check_room(self.proposals)

    @abc.abstractmethod
    def _weights(self, scores: Tensor) -> Tensor:
        """Shares `[B, elites]`, summing to 1, of the elites with these scores, best first; 0 where a score is -inf."""

    def _population(self, round_: int) -> int:
        """How many candidates a round has."""
        return self.samples

    def _noise(self, rows: int, count: int, generator: torch.Generator | None) -> Tensor:
        """Standard normal numbers `[B, count, H, A]`."""
        return torch.randn(rows, count, self.horizon, self.action_dim, generator=generator, device=self.device)

    def _given(self, proposals: Tensor, sampled: Tensor) -> Tensor:
        """Candidates `[B, G, H, A]` that take places of the first round's samples."""
        return torch.cat([self._start()[:, None], proposals], 1)

    def _finish(self, elites: Tensor) -> None:
        """See the last round's elites `[B, elites, H, A]`."""

    @torch.no_grad()
    def _search(self, best: Best, clock: Clock, proposals: Tensor, generator: torch.Generator | None) -> None:
        self._check_room(proposals.shape[1])
        rows = torch.arange(len(proposals), device=self.device)[:, None]
        if self.discrete:
            distribution = Categorical(self._shifted())
        else:
            distribution = Gaussian(self._shifted(), self.std_max, self.std_min)
        kept, kept_scores = proposals[:, :0], proposals.new_empty(len(rows), 0)
        for round_, last in clock.search(best):
            candidates = distribution.sample(self._noise(len(rows), self._population(round_), generator))
            if round_ == 0:
                given = self._given(proposals, candidates)
                candidates[:, : given.shape[1]] = given
            elif last and self.keep:
                candidates[:, 0] = distribution.mode()  # in earlier rounds it would narrow the search, says iCEM
            scores = best(candidates)
            elite_scores, index = torch.cat([scores, kept_scores], 1).topk(self.elites, 1)
            elites = torch.cat([candidates, kept], 1)[rows, index]
            if self.keep:
                kept, kept_scores = elites[:, : self.keep], elite_scores[:, : self.keep]
            elif round_ == 0:
                kept, kept_scores = given, scores[:, : given.shape[1]]
            distribution.fit(self._weights(elite_scores), elites, self.momentum)
        clock.close(best, distribution.mode()[:, None])
        self._finish(elites)

    def _check_room(self, proposals: int) -> None:
        """The shifted last plan and the proposals must leave places for samples."""
        if proposals + 1 > self.samples:
            raise ValueError(
                f"{proposals} proposals and the last plan do not fit into planner.samples={self.samples}: "
                "raise planner.samples or lower planner.proposals"
            )


class Gaussian:
    """Independent normals for each row, step and action dimension, cut off at the bounds."""

    def __init__(self, mean: Tensor, std_max: float, std_min: float):
        self.mean, self.std = mean, torch.full_like(mean, std_max)
        self._limits = (std_min, std_max)

    def sample(self, noise: Tensor) -> Tensor:
        """Actions `[B, C, H, A]` from standard normal numbers of that shape."""
        return torch.addcmul(self.mean[:, None], self.std[:, None], noise).clamp_(-1.0, 1.0)

    def fit(self, weights: Tensor, elites: Tensor, momentum: float) -> None:
        """To elites `[B, K, H, A]` of weights `[B, K]`; `momentum` is the share of the old parameters that stays."""
        weights = weights[:, :, None, None]
        mean = (weights * elites).sum(1)
        std = (weights * (elites - mean[:, None]).square()).sum(1).sqrt().clamp(*self._limits)
        self.mean, self.std = mean.lerp(self.mean, momentum), std.lerp(self.std, momentum)

    def mode(self) -> Tensor:
        """The mean `[B, H, A]`, rid of the rounding that could carry it out of bounds."""
        return self.mean.clamp(-1.0, 1.0)


class Categorical:
    """A distribution over choices for each row and step."""

    def __init__(self, plan: Tensor):
        """From one-hot plans `[B, H, A]`, or all zeros in rows that know nothing."""
        uniform = torch.full_like(plan, 1.0 / plan.shape[-1])
        known = plan.sum(-1, keepdim=True) > 0
        self.probabilities = torch.where(known, RECALL * plan + (1 - RECALL) * uniform, uniform)

    def sample(self, noise: Tensor) -> Tensor:
        """One-hot `[B, C, H, A]` from standard normal numbers of that shape, by way of Gumbel's: where the noise is
        correlated over time, so are the choices, while each one's distribution stays exact."""
        uniform = torch.special.ndtr(noise).clamp_(EPSILON, 1.0 - EPSILON)
        return one_hot(self.probabilities.log()[:, None] - uniform.log_().neg_().log_())

    def fit(self, weights: Tensor, elites: Tensor, momentum: float) -> None:
        """To elites `[B, K, H, A]` of weights `[B, K]`; `momentum` is the share of the old parameters that stays."""
        frequency = (weights[:, :, None, None] * elites).sum(1).lerp(self.probabilities, momentum)
        self.probabilities = (1 - EXPLORATION) * frequency + EXPLORATION / frequency.shape[-1]

    def mode(self) -> Tensor:
        """The likeliest choice of each step, `[B, H, A]`."""
        return one_hot(self.probabilities)
