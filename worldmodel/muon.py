"""The Muon optimizer, in bfloat16 where that is native and in float32 elsewhere."""

from __future__ import annotations

import torch
from torch import Tensor

from worldmodel import precision

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Momentum whose matrices are made orthogonal before they are taken off (Jordan et al. 2024, "Muon: an optimizer for
    hidden layers in neural networks"), with decoupled weight decay.

    `torch.optim.Muon` computes the same in bfloat16 everywhere, in which a CPU that does not have it takes longer for an
    update of a small model than the model itself.

    Args:
        matrices: 2-dimensional parameters of hidden layers; embeddings, heads and vectors belong to another optimizer.
        lr: of a square matrix; one of more rows than columns gets `sqrt(rows / columns)` times as much.

    Raises:
        ValueError: a parameter is not a matrix.
    """

    def __init__(self, matrices, lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.0):
        matrices = list(matrices)
        for matrix in matrices:
            if matrix.ndim != 2:
                raise ValueError(f"a parameter of shape {tuple(matrix.shape)} is not a matrix")
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        """One update, from the gradients."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                average = self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
                average.lerp_(matrix.grad, 1 - group["momentum"])
                update = matrix.grad.lerp(average, group["momentum"])
                update = orthogonal(update.bfloat16() if precision.native_bfloat16(update.device) else update)
                rate = group["lr"] * max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
                matrix.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-rate)
        return loss


def orthogonal(matrix: Tensor) -> Tensor:
    """About the nearest matrix with singular values of one: five Newton-Schulz iterations, which leave them between .7 and
    1.2, but for those below a thousandth of the matrix's norm."""
    a, b, c = _COEFFICIENTS
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / wide.norm().clamp(min=1e-7)
    for _ in range(_ITERATIONS):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T
