"""Action-conditioned heads: the transition ensemble, and reward with continue."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.kernels.residual_norm import residual_norm

# The part of the heads' last layer that gives reward and continue.
OUTCOME = (slice(-1, None), slice(None), slice(0, 2))


@dataclass
class Prediction:
    """What one action leads to, for R rows.

    Attributes:
        latent: `[R, N, D]`, the mean of the members.
        members: `[E, R, N, D]`, each member's next latent.
        reward: `[R]`, in the env's units.
        continue_logit: `[R]`.
    """

    latent: Tensor
    members: Tensor
    reward: Tensor
    continue_logit: Tensor


class ConditionedHeads(nn.Module):
    """A layer that the action scales and shifts (AdaLN), and E small MLPs side by side that read it."""

    def __init__(self, features: int, action_dim: int, hidden: int, out: int, members: int):
        super().__init__()
        self.members, self.each = members, hidden // 2
        self.first = nn.Linear(features, hidden)
        self.modulation = nn.Linear(action_dim, 2 * hidden)
        self.second = nn.Linear(hidden, members * self.each)
        self.last = nn.Parameter(torch.zeros(members, self.each, out))
        self.last_bias = nn.Parameter(torch.zeros(members, 1, out))

    def forward(self, features: Tensor, action: Tensor) -> Tensor:
        """`features [R, F]` and `action [R, A]` to `[E, R, out]`; zero before training."""
        x = self.first(features)
        scale, shift = self.modulation(action).chunk(2, dim=-1)
        x = F.silu(residual_norm(x, scale=scale, shift=shift, center=True)[1])
        x = self.second(x).unflatten(-1, (self.members, self.each))
        x = F.silu(residual_norm(x, center=True)[1]).transpose(0, 1).contiguous()
        return torch.bmm(x, self.last) + self.last_bias


class Transition(nn.Module):
    """Belief and action to the *change* of the latent, the reward, and whether the episode goes on.

    The belief stays free of the action, so that a policy can read it and many candidate actions share it. E heads
    predict each token's change; one more predicts reward and continue, summed over tokens; all run side by side."""

    def __init__(self, latent_dim: int, width: int, action_dim: int, hidden: int, members: int):
        super().__init__()
        self.heads = ConditionedHeads(width + latent_dim, action_dim, hidden, max(latent_dim, 2), members + 1)
        self.register_buffer("reward_scale", torch.ones(()))

    def forward(self, belief: Tensor, latent: Tensor, action: Tensor) -> Prediction:
        """Rows of `belief [R, N, W]`, `latent [R, N, D]`, `action [R, A]`."""
        rows, tokens, dim = latent.shape
        features = torch.cat([belief, latent], dim=-1).flatten(0, 1)
        per_token = action if tokens == 1 else action.repeat_interleave(tokens, 0)
        out = self.heads(features, per_token).unflatten(1, (rows, tokens))
        members = latent + out[:-1, ..., :dim]
        outcome = out[-1, ..., :2].sum(1)
        return Prediction(members.mean(0), members, outcome[:, 0] * self.reward_scale, outcome[:, 1])
