"""MPPI: the next distribution is the average of the best candidates, weighted by how good they are."""

from __future__ import annotations

import torch
from torch import Tensor

from policies.planners.planner import real
from policies.planners.sampling import SamplingPlanner


class MPPI(SamplingPlanner):
    """Model predictive path integral control as in TD-MPC2 (Williams et al. 2015; Hansen et al. 2024).

    Elites weigh `exp((score - best) / (temperature * spread))`, `spread` being the standard deviation of their scores:
    the option means the same whatever the rewards' units are. (TD-MPC2 multiplies raw values by its temperature.)

    Args:
        temperature: near 0 the best elite decides alone; large values weigh all elites alike, as CEM does.
        options: see `SamplingPlanner` and `Planner`.
    """

    def __init__(self, action_dim: int, discrete: bool = False, *, temperature: float, **options):
        super().__init__(action_dim, discrete, **options)
        self.temperature = real("temperature", temperature, above=0.0)

    def _weights(self, scores: Tensor) -> Tensor:
        usable = torch.isfinite(scores)
        gaps = torch.where(usable, scores[:, :1] - scores, 0.0)  # the best elite stands first
        count = usable.sum(1, keepdim=True).clamp_min(1)
        average = gaps.sum(1, keepdim=True) / count
        spread = (torch.where(usable, gaps - average, 0.0).square().sum(1, keepdim=True) / count).sqrt()
        tiny = torch.finfo(scores.dtype).tiny
        weights = torch.exp(-gaps / (self.temperature * spread).clamp_min(tiny)) * usable
        return weights / weights.sum(1, keepdim=True).clamp_min(tiny)
