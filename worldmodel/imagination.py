"""Imagination: from a memory, and a policy or candidate actions, to trajectories."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from worldmodel.transformer import Memory


@dataclass
class Trajectory:
    """What imagination returns for R = B x C rows; candidate c of history b is row b * C + c.

    Attributes:
        latents: `[R, H + 1, N, D]`, the first one observed.
        beliefs: `[R, H + 1, N, W]`, or those that were asked for.
        actions: `[R, H, A]`.
        rewards: `[R, H]`, in the env's units.
        continues: `[R, H]`, probability that the episode goes on after the step.
        members: for each of the H steps, what each head of the transition made of it, `[E, R, N, D]`.
    """

    latents: Tensor
    beliefs: Tensor
    actions: Tensor
    rewards: Tensor
    continues: Tensor
    members: list[Tensor]

    @property
    def disagreement(self) -> Tensor:
        """Spread of the members, root mean square over the latent: `[R, H]`; 0 for an ensemble of one."""
        spread = torch.stack([step.var(0, unbiased=False).mean((-1, -2)) for step in self.members], 1)
        return (spread + 1e-12).sqrt()  # a gradient at 0 too


def imagine(
    model,
    memory: Memory,
    policy: Callable[[Tensor, Tensor], Tensor] | Tensor,
    horizon: int,
    candidates: int = 1,
    beliefs: Literal["all", "last", "before"] = "all",
    step: Callable | None = None,
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
        beliefs: which are wanted: "all"; "last", the one after the last step alone, `[R, 1, N, W]`; "before", those
            that the actions were taken from, `[R, H, N, W]`, which spares the last.
        step: `model.step`, or a faster form of it.

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
    latent = memory.latent.repeat_interleave(candidates, 0) if candidates > 1 else memory.latent.contiguous()
    belief = memory.belief.repeat_interleave(candidates, 0) if candidates > 1 else memory.belief.contiguous()
    given_steps = policy.transpose(0, 1).contiguous() if given else None
    latents, believed, actions, predictions = [latent], [belief], [], []
    tail, step = model.belief.begin(memory, rows, horizon), step or model.step
    for t in range(horizon):
        action = given_steps[t] if given else policy(belief, latent)
        if beliefs != "before" or t < horizon - 1:
            prediction, belief, tail = step(belief, latent, action, memory, tail)
            believed.append(belief)
        else:
            prediction = model.transition(belief, latent, action)
        latent = prediction.latent
        latents.append(latent)
        actions.append(action)
        predictions.append(prediction)
    return Trajectory(
        latents=torch.stack(latents, 1),
        beliefs=torch.stack(believed[-1:] if beliefs == "last" else believed, 1),
        actions=policy if given else torch.stack(actions, 1),
        rewards=torch.stack([p.reward for p in predictions], 1),
        continues=torch.stack([p.continue_logit for p in predictions], 1).sigmoid(),
        members=[p.members for p in predictions],
    )
