"""From latent tokens back to pictures and states: the decoders, which train on detached latents."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from worldmodel.interface import Interface
from worldmodel.precision import reduced_precision


class CameraDecoder(nn.Module):
    """The mirror of `CameraEncoder`: a linear layer to the grid, then transposed convolutions."""

    def __init__(self, shape: tuple[int, int, int], channels: tuple[int, int, int], tokens: int, latent_dim: int):
        super().__init__()
        height, width, depth = shape
        first, second, third = channels
        self.grid = (height // 16, width // 16, third)
        self.side = round(tokens**0.5)
        self.hidden = nn.Sequential(nn.Linear(latent_dim, 256), nn.SiLU())
        self.place = nn.Parameter(torch.zeros(tokens, 256))
        self.to_grid = nn.Linear(256, self.grid[0] * self.grid[1] * third // tokens)
        self.layers = nn.Sequential(
            nn.SiLU(),
            nn.ConvTranspose2d(third, second, 4, 2, 1),
            nn.SiLU(),
            nn.ConvTranspose2d(second, first, 4, 2, 1),
            nn.SiLU(),
            nn.ConvTranspose2d(first, depth, 8, 4, 2),
        ).to(memory_format=torch.channels_last)

    def forward(self, latent: Tensor) -> Tensor:
        """`latent [F, N, D]` to pictures `[F, H, W, 3]` in about [-1, 1]."""
        features = self.to_grid(self.hidden(latent) + self.place)
        height, width = self.grid[0] // self.side, self.grid[1] // self.side
        features = rearrange(
            features, "f (p q) (h w c) -> f c (p h) (q w)", p=self.side, q=self.side, h=height, w=width
        )
        return self.layers(features.contiguous(memory_format=torch.channels_last)).permute(0, 2, 3, 1)


class VideoDecoder(nn.Module):
    """Latents to the pictures of every camera."""

    def __init__(self, interface: Interface, tokens: int, latent_dim: int, channels: tuple[int, int, int]):
        super().__init__()
        self.keys = list(interface.cameras)
        self.cameras = nn.ModuleList(
            [CameraDecoder(interface.cameras[key], channels, tokens, latent_dim) for key in self.keys]
        )

    def forward(self, latent: Tensor) -> dict[str, Tensor]:
        """`latent [F, N, D]` to each camera's `[F, H, W, 3]`, float32 in about [-1, 1]."""
        with reduced_precision(latent.device):
            return {key: camera(latent).float() for key, camera in zip(self.keys, self.cameras)}

    @torch.no_grad()
    def frames(self, latent: Tensor) -> dict[str, Tensor]:
        """The same as uint8 pictures."""
        return {
            key: (picture * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)
            for key, picture in self(latent).items()
        }


class StateDecoder(nn.Module):
    """Latents back to the vector `state`, in units of its standard deviation; trains on detached latents too."""

    def __init__(self, tokens: int, latent_dim: int, state_dim: int, hidden: int = 256):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(tokens * latent_dim, hidden), nn.SiLU(), nn.Linear(hidden, state_dim))

    def forward(self, latent: Tensor) -> Tensor:
        """`latent [..., N, D]` to `[..., S]`."""
        return self.layers(latent.flatten(-2))
