"""iCEM: CEM for few samples, by noise that is correlated over time and a memory of good candidates."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from policies.planners.cem import CEM
from policies.planners.planner import real, shift


class ICEM(CEM):
    """The improved cross-entropy method (Pinneri et al. 2020, "Sample-efficient cross-entropy method for real-time
    planning"): coloured noise, kept and shifted elites, a population that shrinks, the mean among the last candidates.

    Kept elites stand by their first score within one plan, and are scored anew, shifted by a step, in the next.

    Args:
        noise_beta: the noise's spectrum falls as 1 / frequency^noise_beta: 0 is white, 1 pink, 2 a random walk. Higher
            values hold actions longer, which reaches further; slow systems want more of it than fast ones.
        keep_fraction: share of the elites that stays, from round to round and from plan to plan, in (0, 1].
        shrink: each round has this many times fewer samples than the one before, but at least twice the elites; 1 keeps
            all.
        options: see `CEM`, `SamplingPlanner` and `Planner`.
    """

    def __init__(
        self,
        action_dim: int,
        discrete: bool = False,
        *,
        noise_beta: float,
        keep_fraction: float,
        shrink: float,
        **options,
    ):
        super().__init__(action_dim, discrete, **options)
        self.noise_beta = real("noise_beta", noise_beta, least=0.0)
        self.keep = math.ceil(self.elites * real("keep_fraction", keep_fraction, above=0.0, most=1.0))
        self.shrink = real("shrink", shrink, least=1.0)
        self._check_room(self.proposals)
        self._colour = colouring(self.horizon, self.noise_beta).to(self.device)
        self._kept: Tensor | None = None  # [B, keep, H, A], the last plan's best candidates

    def reset(self, mask: Tensor | None = None) -> None:
        super().reset(mask)
        if self._warm is None:
            self._kept = None

    def _population(self, round_: int) -> int:
        return max(int(self.samples / self.shrink**round_), min(2 * self.elites, self.samples))

    def _noise(self, rows: int, count: int, generator: torch.Generator | None) -> Tensor:
        white = torch.randn(
            rows, count, self._colour.shape[1], self.action_dim, generator=generator, device=self.device
        )
        return self._colour @ white

    def _given(self, proposals: Tensor, sampled: Tensor) -> Tensor:
        given = super()._given(proposals, sampled)
        if self._kept is None:
            return given
        places = sampled[:, given.shape[1] : given.shape[1] + self.keep]  # rows without a past keep their own samples
        return torch.cat([given, torch.where(self._warm[:, None, None, None], shift(self._kept), places)], 1)

    def _finish(self, elites: Tensor) -> None:
        self._kept = elites[:, : self.keep]

    def _check_room(self, proposals: int) -> None:
        if proposals + 1 + self.keep > self.samples:
            raise ValueError(
                f"{proposals} proposals, the last plan and {self.keep} kept elites do not fit into "
                f"planner.samples={self.samples}: raise planner.samples or lower planner.proposals or planner.elites"
            )


def colouring(horizon: int, beta: float) -> Tensor:
    """The matrix `[H, F]` that makes of F white normals H numbers of unit variance with a power spectrum of
    1 / frequency^beta (Timmer & Koenig 1995): the inverse Fourier transform of weighted white noise, as one product."""
    step = torch.arange(horizon, dtype=torch.float64)[:, None]
    frequency = torch.arange(horizon // 2 + 1, dtype=torch.float64)
    amplitude = frequency.clamp_min(1.0) ** (-beta / 2)  # the constant part is as strong as the slowest wave
    sineless = (frequency == 0) | (2 * frequency == horizon)
    amplitude[sineless] *= math.sqrt(2.0)  # all their power is in the cosine
    phase = 2 * math.pi * frequency * step / horizon
    waves = torch.cat([amplitude * phase.cos(), amplitude * phase.sin()], 1)
    return (waves / waves.norm(dim=1, keepdim=True)).float()
