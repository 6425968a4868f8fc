"""Statistics over the batch of all processes, with their gradient."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def process_count() -> int:
    """Processes that train together; 1 outside a `torchrun`, and where torch has no distributed package."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _MeanOverProcesses(torch.autograd.Function):
    """All-reduce whose backward is an all-reduce: every process's loss depends on every process's statistics, and
    DDP averages the gradients afterwards, so the mean is the right one in both directions."""

    @staticmethod
    def forward(ctx, value: Tensor) -> Tensor:
        value = value.contiguous().clone()
        dist.all_reduce(value)
        return value / dist.get_world_size()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient / dist.get_world_size()


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of `value` over the processes of a `torchrun`; `value` itself in a single process."""
    return value if process_count() == 1 else _MeanOverProcesses.apply(value)
