"""Gradient planning: Adam on the actions themselves, through the score, from several starts."""

from __future__ import annotations

import torch
from torch import Tensor

from policies.planners.planner import Best, Clock, Planner, real, whole

FIRST_DECAY, SECOND_DECAY, EPSILON = 0.9, 0.999, 1e-8  # Adam's own defaults (Kingma & Ba 2015)
PREFERENCE = 2.0  # logit that the choice of a given plan starts with, the others' being 0


class GradientPlanner(Planner):
    """Climbs the score of several action sequences side by side, and returns the best that was scored.

    Continuous actions are projected onto the bounds after every step: unlike a tanh, the bound itself can be reached
    and left again. Discrete ones are straight-through samples (Bengio et al. 2013; Jang et al. 2017): the score sees
    exact one-hot vectors, drawn by Gumbel noise in all rounds but the first and last, and the gradient goes to the
    softmax. Candidates that score NaN stay where they are.

    Args:
        restarts: sequences per row: the shifted last plan, the proposals, and uniformly random ones in the places left.
        learning_rate: Adam's, in units of actions (of logits where discrete) per round.
        options: see `Planner`; the last of the `iterations` only scores.
    """

    def __init__(self, action_dim: int, discrete: bool = False, *, restarts: int, learning_rate: float, **options):
        super().__init__(action_dim, discrete, **options)
        self.restarts = whole("restarts", restarts, 1)
        self.learning_rate = real("learning_rate", learning_rate, above=0.0)
        self._check_room(self.proposals)
        self._closing_ms = 0.0  # it ends without a last candidate

    def _search(self, best: Best, clock: Clock, proposals: Tensor, generator: torch.Generator | None) -> None:
        with torch.inference_mode(False), torch.enable_grad():
            parameters = self._first(proposals, generator)
            first = second = torch.zeros_like(parameters)
            for round_, last in clock.search(best):
                parameters = parameters.requires_grad_()
                noisy = self.discrete and not last and round_ > 0
                scores = best(self._actions(parameters, noisy, generator))
                if not scores.requires_grad:
                    raise ValueError(
                        "planner=gradient needs a score that is differentiable with respect to the actions; this one "
                        "has no gradient: compute it without torch.no_grad(), or choose planner=mppi, cem or icem"
                    )
                if last:
                    continue
                (gradient,) = torch.autograd.grad(scores.sum(), parameters)
                gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
                first = FIRST_DECAY * first + (1 - FIRST_DECAY) * gradient
                second = SECOND_DECAY * second + (1 - SECOND_DECAY) * gradient.square()
                mean = first / (1 - FIRST_DECAY ** (round_ + 1))
                scale = (second / (1 - SECOND_DECAY ** (round_ + 1))).sqrt() + EPSILON
                parameters = parameters.detach() + self.learning_rate * mean / scale
                if not self.discrete:
                    parameters = parameters.clamp_(-1.0, 1.0)

    def _first(self, proposals: Tensor, generator: torch.Generator | None) -> Tensor:
        """Where the search begins, `[B, restarts, H, A]`: actions, or logits where discrete."""
        rows, given = proposals.shape[:2]
        self._check_room(given)
        uniform = torch.rand(
            rows, self.restarts - 1 - given, self.horizon, self.action_dim, generator=generator, device=self.device
        )
        known = torch.cat([self._start()[:, None], proposals], 1)
        if self.discrete:
            return torch.cat([PREFERENCE * known, gumbel(uniform)], 1)
        return torch.cat([known, 2.0 * uniform - 1.0], 1)

    def _actions(self, parameters: Tensor, noisy: bool, generator: torch.Generator | None) -> Tensor:
        if not self.discrete:
            return parameters
        if noisy:
            parameters = parameters + gumbel(torch.rand(parameters.shape, generator=generator, device=self.device))
        return _StraightThrough.apply(parameters.softmax(-1))

    def _check_room(self, proposals: int) -> None:
        """The shifted last plan and the proposals must fit."""
        if proposals + 1 > self.restarts:
            raise ValueError(
                f"{proposals} proposals and the last plan do not fit into planner.restarts={self.restarts}: "
                "raise planner.restarts or lower planner.proposals"
            )


def gumbel(uniform: Tensor) -> Tensor:
    """Standard Gumbel numbers from uniform ones in [0, 1)."""
    smallest = torch.finfo(uniform.dtype).tiny
    return -(-uniform.clamp_min(smallest).log()).clamp_min(smallest).log()


class _StraightThrough(torch.autograd.Function):
    """The likeliest choice as an exact one-hot vector, with the gradient of the probabilities."""

    @staticmethod
    def forward(context, probabilities: Tensor) -> Tensor:
        return torch.zeros_like(probabilities).scatter_(-1, probabilities.argmax(-1, keepdim=True), 1.0)

    @staticmethod
    def backward(context, gradient: Tensor) -> Tensor:
        return gradient
