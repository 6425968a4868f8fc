"""What is read of a state from latent and belief: positions linearly, velocities by a small network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

OUTLIER = 10.0  # standard deviations at which targets are cut


class StateReadout(nn.Module):
    """Positions, which a picture shows, from the latent; velocities, which it does not, from latent and belief.

    Args:
        latent_size: numbers of one frame's latent, N * D.
        feature_dim: of `WorldModel.features`.
        hidden: width of the network.
        positions, velocities: how many there are; the latter may be 0.
    """

    def __init__(self, latent_size: int, feature_dim: int, hidden: int, positions: int, velocities: int):
        super().__init__()
        self.positions = positions
        self.position, self.velocity = nn.Linear(latent_size, positions), None
        if velocities:
            layers = [nn.Linear(feature_dim, hidden), nn.LayerNorm(hidden), nn.SiLU(), nn.Linear(hidden, velocities)]
            self.velocity = nn.Sequential(*layers)
        self.register_buffer("mean", torch.zeros(positions + velocities))
        self.register_buffer("std", torch.ones(positions + velocities))

    def forward(self, features: Tensor, latent: Tensor) -> Tensor:
        """`features [..., F]` and `latent [..., N, D]` to the state `[..., P]` in its own units."""
        return torch.cat(self._read(features, latent), -1) * self.std + self.mean

    def errors(self, features: Tensor, latent: Tensor, state: Tensor) -> list[Tensor]:
        """Mean squared errors of positions and, where there are any, of velocities, in standard deviations: `[...]` each."""
        target = ((state - self.mean) / self.std).clamp(-OUTLIER, OUTLIER)
        parts = target[..., : self.positions], target[..., self.positions :]
        return [(one - other).square().mean(-1) for one, other in zip(self._read(features, latent), parts)]

    def _read(self, features: Tensor, latent: Tensor) -> list[Tensor]:
        positions = self.position(latent.flatten(-2))
        return [positions] if self.velocity is None else [positions, self.velocity(features)]
