"""SIGReg: random projections of the latents, tested against a unit Gaussian, keep them from collapsing."""

from __future__ import annotations

import torch
from torch import Tensor

from worldmodel.distributed import mean_over_processes, process_count


def sigreg(
    latents: Tensor, generator: torch.Generator | None = None, projections: int = 128, knots: int = 17
) -> Tensor:
    """Epps-Pulley statistic of random one-dimensional projections (LeJEPA, Balestriero & LeCun 2025, eq. 7).

    The empirical characteristic function is averaged over all processes, so that the statistic is that of the whole
    batch; the projections must therefore be the same in every process (a `generator` with the same seed).

    Args:
        latents: `[F, D]`.
        generator: of the projections.

    Returns:
        a scalar, about 1 for a unit Gaussian whatever F is.
    """
    directions = torch.randn(latents.shape[-1], projections, generator=generator, device=latents.device)
    directions = directions / directions.norm(dim=0)
    knot = torch.linspace(0, 4, knots, device=latents.device)
    target = torch.exp(-0.5 * knot.square())
    phase = (latents @ directions)[..., None] * knot
    real = mean_over_processes(phase.cos().mean(0))
    imaginary = mean_over_processes(phase.sin().mean(0))
    error = ((real - target).square() + imaginary.square()) * target
    return 2 * torch.trapezoid(error, knot, dim=-1).mean() * latents.shape[0] * process_count()
