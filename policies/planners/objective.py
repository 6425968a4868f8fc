"""What a plan is for: objectives score imagined trajectories."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from worldmodel.imagination import Trajectory


class Objective(Protocol):
    """Anything that scores trajectories of R rows: `[R]`, higher is better, differentiable."""

    def __call__(self, trajectory: Trajectory) -> Tensor: ...


def checked_penalty(penalty: float) -> float:
    """`penalty`, of disagreement; raises ValueError if it is no number of at least 0."""
    if not 0.0 <= penalty < math.inf:
        raise ValueError(f"disagreement_penalty={penalty!r}: must be a number of at least 0")
    return penalty


class RewardObjective:
    """Discounted reward, and beyond the horizon the critic's estimate:

        sum over t < H of discount^t c_0 ... c_{t-1} (r_t - penalty d_t)  +  discount^H c_0 ... c_{H-1} value(h_H, z_H)

    with rewards r, the probabilities c that the episode goes on after a step, and the disagreement d of the ensemble
    (TD-MPC2's planning objective, with episode ends; the penalty as in MOPO, Yu et al. 2020). The reward of the step that ends
    an episode counts.

    Args:
        discount: per agent step, in (0, 1].
        value: critic, from beliefs `[R, N, W]` and latents `[R, N, D]` to values `[R]`; None ends the sum at H.
        disagreement_penalty: reward that one unit of disagreement (a standard deviation) costs.
    """

    def __init__(
        self,
        discount: float,
        value: Callable[[Tensor, Tensor], Tensor] | None = None,
        disagreement_penalty: float = 0.0,
    ):
        if not 0.0 < discount <= 1.0:
            raise ValueError(f"discount={discount!r}: must be above 0 and at most 1")
        self.discount, self.value = discount, value
        self.disagreement_penalty = checked_penalty(disagreement_penalty)

    def __call__(self, trajectory: Trajectory) -> Tensor:
        rewards = trajectory.rewards
        if self.disagreement_penalty:
            rewards = rewards - self.disagreement_penalty * trajectory.disagreement
        reached = (self.discount * trajectory.continues).cumprod(1)  # [R, H]: weight of what follows step t
        score = rewards[:, 0] + (reached[:, :-1] * rewards[:, 1:]).sum(1)
        if self.value is not None:
            score = score + reached[:, -1] * self.value(trajectory.beliefs[:, -1], trajectory.latents[:, -1])
        return score


def root_mean_square(latents: Tensor, goals: Tensor) -> Tensor:
    """The distance of latents `[..., N, D]` from goals `[..., N, D]` over tokens and dimensions: `[...]`."""
    return torch.linalg.vector_norm(latents - goals, dim=(-2, -1)) / math.sqrt(goals.shape[-1] * goals.shape[-2])


class GoalObjective:
    """Minus the distance of the imagined latents to a goal's.

    Args:
        goal_latent: `[N, D]`, or `[B, N, D]` with a goal for each planned row; candidate c of row b is trajectory
            b * C + c.
        last_steps: how many of the imagined latents count, from the end; None counts all but the observed one.
        reduction: "mean" asks to be there and stay, "min" to pass by once.
        distance: of latents `[R, S, N, D]` from goals `[R, 1, N, D]`, `[R, S]`: root mean square, or a learned one.
    """

    def __init__(
        self,
        goal_latent: Tensor,
        last_steps: int | None = None,
        reduction: str = "mean",
        distance: Callable[[Tensor, Tensor], Tensor] = root_mean_square,
    ):
        if goal_latent.ndim not in (2, 3):
            raise ValueError(f"goal_latent of shape {tuple(goal_latent.shape)}: expected [N, D] or [B, N, D]")
        if last_steps is not None and last_steps < 1:
            raise ValueError(f"last_steps={last_steps!r}: must be at least 1, or None for all")
        if reduction not in ("mean", "min"):
            raise ValueError(f"reduction={reduction!r}: must be mean or min")
        self.goal_latent = goal_latent if goal_latent.ndim == 3 else goal_latent[None]
        self.last_steps, self.reduction, self.distance = last_steps, reduction, distance

    def __call__(self, trajectory: Trajectory) -> Tensor:
        latents, goals = trajectory.latents[:, 1:], self.goal_latent
        if latents.shape[0] % goals.shape[0] or latents.shape[2:] != goals.shape[1:]:
            raise ValueError(
                f"goal latents of shape {tuple(goals.shape)} do not fit {latents.shape[0]} trajectories of latents "
                f"{tuple(latents.shape[2:])}: encode the goal with the checkpoint that imagines"
            )
        if self.last_steps is not None:
            latents = latents[:, -self.last_steps :]
        goals = goals.repeat_interleave(latents.shape[0] // goals.shape[0], 0)[:, None]
        distance = self.distance(latents, goals)
        return -(distance.mean(1) if self.reduction == "mean" else distance.amin(1))


def sentence_fit(semantic: Tensor, text: Tensor, tokens: Sequence[int]) -> Tensor:
    """The cosine between semantic tokens `[R, S, K, E]` and a sentence for each row `[R, E]`, averaged over those `tokens`
    of the K that compare with text: `[R, S]`."""
    return torch.einsum("rske,re->rs", semantic[:, :, list(tokens)], text) / len(tokens)


class SentenceObjective:
    """How well imagined frames fit a sentence: the cosine between their semantic tokens and its embedding, averaged over
    cameras and over all steps but the observed one.

    Args:
        text: `[B, E]`, unit vectors, one sentence for each planned row; candidate c of row b is trajectory b * C + c.
        read: latents `[R, S, N, D]` to semantic tokens `[R, S, K, E]`, unit vectors.
        tokens: which of the K compare with text.
    """

    def __init__(self, text: Tensor, read: Callable[[Tensor], Tensor], tokens: Sequence[int]):
        if text.ndim != 2:
            raise ValueError(f"text embeddings of shape {tuple(text.shape)}: expected [B, E]")
        self.text, self.read, self.tokens = text, read, list(tokens)

    def __call__(self, trajectory: Trajectory) -> Tensor:
        latents = trajectory.latents[:, 1:]
        if latents.shape[0] % len(self.text):
            raise ValueError(f"{len(self.text)} sentences do not fit {latents.shape[0]} trajectories")
        text = self.text.repeat_interleave(latents.shape[0] // len(self.text), 0)
        return sentence_fit(self.read(latents), text, self.tokens).mean(1)


class CautiousObjective:
    """Another objective, less the ensemble's disagreement (a standard deviation of the latent), averaged over the steps
    of the plan: MOPO's penalty (Yu et al. 2020) for objectives that are no sum of rewards.

    Args:
        objective: the other one.
        penalty: what one unit of disagreement costs, in the other one's units.
    """

    def __init__(self, objective: Objective, penalty: float):
        self.objective, self.penalty = objective, checked_penalty(penalty)

    def __call__(self, trajectory: Trajectory) -> Tensor:
        return self.objective(trajectory) - self.penalty * trajectory.disagreement.mean(1)


class WeightedSum:
    """Several objectives at once, as `[(weight, objective), ...]`."""

    def __init__(self, terms: Sequence[tuple[float, Objective]]):
        if not terms:
            raise ValueError("a WeightedSum needs at least one (weight, objective)")
        self.terms = list(terms)

    def __call__(self, trajectory: Trajectory) -> Tensor:
        return torch.stack([weight * objective(trajectory) for weight, objective in self.terms]).sum(0)
