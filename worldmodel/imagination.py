"""Imagination: from a memory, and a policy or candidate actions, to trajectories."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from worldmodel.transformer import Memory


@dataclass
class Trajectory:
    """What imagination returns for R = B x C rows; candidate c of history b is row b * C + c.

    Attributes:
        latents: `[R, H + 1, N, D]`, the first one observed.
        beliefs: `[R, H + 1, N, W]`.
        actions: `[R, H, A]`.
        rewards: `[R, H]`, in the env's units.
        continues: `[R, H]`, probability that the episode goes on after the step.
        members: `[E, R, H, N, D]`, what each head of the transition made of every step.
    """

    latents: Tensor
    beliefs: Tensor
    actions: Tensor
    rewards: Tensor
    continues: Tensor
    members: Tensor

    @property
    def disagreement(self) -> Tensor:
        """Spread of the members, root mean square over the latent: `[R, H]`; 0 for an ensemble of one."""
        return (self.members.var(0, unbiased=False).mean((-1, -2)) + 1e-12).sqrt()  # a gradient at 0 too


def imagine(
    model,
    memory: Memory,
    policy: Callable[[Tensor, Tensor], Tensor] | Tensor,
    horizon: int,
    candidates: int = 1,
    last_belief: bool = True,
) -> Trajectory:
    """Roll the model forward from `memory`. The history's cache is read in place and shared by all candidates; each
    step costs one frame.

    Args:
        model: a `WorldModel`.
        memory: of B histories.
        policy: called with `belief [R, N, W]` and `latent [R, N, D]`, returns actions `[R, A]`; or the actions
            themselves, `[R, H, A]`.
        horizon: steps, H.
        candidates: C.
        last_belief: whether the belief after the last step is wanted (a critic's is); without, `beliefs` is `[R, H, ...]`.

    Raises:
        ValueError: the actions' shape does not fit B, C and H.
    """
    rows = memory.latent.shape[0] * candidates
    given = isinstance(policy, Tensor)
    if given and policy.shape[:2] != (rows, horizon):
        raise ValueError(
            f"actions of shape {tuple(policy.shape)} do not fit {memory.latent.shape[0]} histories x {candidates} "
            f"candidates x {horizon} steps: expected ({rows}, {horizon}, action_dim)"
        )
    latent = memory.latent.repeat_interleave(candidates, 0) if candidates > 1 else memory.latent
    belief = memory.belief.repeat_interleave(candidates, 0) if candidates > 1 else memory.belief
    latents, beliefs, actions, predictions, tail = [latent], [belief], [], [], None
    for step in range(horizon):
        action = policy[:, step] if given else policy(belief, latent)
        prediction = model.transition(belief, latent, action)
        latent = prediction.latent
        latents.append(latent)
        actions.append(action)
        predictions.append(prediction)
        if last_belief or step < horizon - 1:
            belief, tail = model.extend(latent, action, memory, tail)
            beliefs.append(belief)
    return Trajectory(
        latents=torch.stack(latents, 1),
        beliefs=torch.stack(beliefs, 1),
        actions=policy if given else torch.stack(actions, 1),
        rewards=torch.stack([p.reward for p in predictions], 1),
        continues=torch.stack([p.continue_logit for p in predictions], 1).sigmoid(),
        members=torch.stack([p.members for p in predictions], 2),
    )
