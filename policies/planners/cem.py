"""CEM: the next distribution is fitted to the best candidates, all alike."""

from __future__ import annotations

import torch
from torch import Tensor

from policies.planners.planner import real
from policies.planners.sampling import SamplingPlanner


class CEM(SamplingPlanner):
    """The cross-entropy method (Rubinstein & Kroese 2004; for planning, Chua et al. 2018, PETS).

    Args:
        momentum: share of the old mean and standard deviation in the new ones, in [0, 1).
        options: see `SamplingPlanner` and `Planner`.
    """

    def __init__(self, action_dim: int, discrete: bool = False, *, momentum: float, **options):
        super().__init__(action_dim, discrete, **options)
        self.momentum = real("momentum", momentum, least=0.0, most=0.99)

    def _weights(self, scores: Tensor) -> Tensor:
        usable = torch.isfinite(scores).to(scores.dtype)
        return usable / usable.sum(1, keepdim=True).clamp_min(1.0)
