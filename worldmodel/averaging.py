"""Moving averages of weights."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


@torch.no_grad()
def follow(average: nn.Module, module: nn.Module, rate: float, updates: int | None = None) -> None:
    """Move the parameters of `average` towards those of `module` by `rate` (Polyak & Juditsky 1992); buffers stay.

    Args:
        updates: that `module` has had; in the first ones the average is of fewer weights, at a rate of
            9 / (10 + updates), so that it soon forgets where it began.
    """
    if updates is not None:
        rate = max(rate, 9 / (10 + updates))
    get_ema_multi_avg_fn(1 - rate)(list(average.parameters()), list(module.parameters()), None)
