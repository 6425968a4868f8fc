"""Lambda-returns over imagined steps."""

from __future__ import annotations

import torch
from torch import Tensor


def lambda_return(rewards: Tensor, continues: Tensor, values: Tensor, discount: float, trace: float) -> Tensor:
    """Exponentially weighted mixture of n-step returns that stops where episodes end (Sutton & Barto 2018, eq. 12.18;
    Hafner et al. 2023, eq. 7).

    Args:
        rewards: `[R, H]`, of the steps.
        continues: `[R, H]`, probability that the episode goes on after the step.
        values: `[R, H + 1]`, of the states before each step and after the last.
        discount: per step.
        trace: lambda, 0 for one-step targets, 1 for the plain sum with a bootstrap at the end.

    Returns:
        `[R, H]`, the return from each step on.
    """
    result, returns = values[:, -1], []
    for step in reversed(range(rewards.shape[1])):
        bootstrap = torch.lerp(values[:, step + 1], result, trace)
        result = rewards[:, step] + discount * continues[:, step] * bootstrap
        returns.append(result)
    return torch.stack(returns[::-1], dim=1)
