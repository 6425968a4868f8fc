"""From an observation to the latent tokens of one frame."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from worldmodel.distributed import mean_over_processes
from worldmodel.interface import SEMANTIC, Interface
from worldmodel.precision import reduced_precision

EPSILON = 1e-5  # added to variances
OUTLIER = 5.0  # standard deviations from which on a latent is compressed


class Standardize(nn.Module):
    """Zero mean and unit variance per dimension, without an affine part: keeps the latents' scale.

    A batch of a few windows is far from all frames: normalised by its own statistics (Ioffe & Szegedy 2015), every
    latent is off by a fifth of its standard deviation, differently in every batch. So values are normalised by
    statistics of reference frames that the same weights have just encoded, and gradients as if by the batch's own, as
    in batch renormalisation (Ioffe 2017); running statistics instead of fresh ones lag behind the weights and diverge."""

    def __init__(self, dim: int, momentum: float = 0.05):
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("variance", torch.ones(dim))

    def forward(self, x: Tensor, reference: Tensor | None = None, real: Tensor | None = None) -> Tensor:
        """`x [F, N, D]`, statistics over F and N, of all processes.

        Args:
            real: bool `[F]`, which frames count in the batch's own statistics; all when None.
            reference: `[R, N, D]`, frames drawn one by one, whose statistics are to be used; the batch's own when None.
        """
        if not self.training:
            return compress_outliers((x - self.mean) * (self.variance + EPSILON).rsqrt())
        mean, variance = statistics(x if real is None else x[real])
        latent = (x - mean) * (variance + EPSILON).rsqrt()
        with torch.no_grad():
            own = mean, variance
            if reference is not None:
                mean, variance = statistics(reference)
            spread = (variance + EPSILON).sqrt()
            scale, shift = (own[1] + EPSILON).sqrt() / spread, (own[0] - mean) / spread
            self.mean.lerp_(mean, self.momentum)
            self.variance.lerp_(variance, self.momentum)
        return compress_outliers(latent if reference is None else latent * scale + shift)

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        """Take the statistics of frames `[F, N, D]` for use outside training (precise statistics, Wu & Johnson 2021)."""
        mean, variance = statistics(x)
        self.mean.copy_(mean)
        self.variance.copy_(variance)


def compress_outliers(x: Tensor) -> Tensor:
    """`x` itself up to `OUTLIER` in size, its logarithm beyond, with a continuous slope; of any shape.

    What hardly differs between the reference frames has a tiny spread, so that a frame unlike all of them can lie hundreds
    of standard deviations off: squares of such errors would be all that is trained on."""
    size = x.abs()
    return torch.where(size <= OUTLIER, x, x.sign() * (OUTLIER + (size - OUTLIER).clamp_min(0).log1p()))


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance `[D]` of `x [F, N, D]`, over all processes."""
    mean = mean_over_processes(x.mean((0, 1)))
    return mean, mean_over_processes((x - mean).square().mean((0, 1)))


class CameraEncoder(nn.Module):
    """One camera's picture to a grid of features: a patchifying convolution and two that halve the grid, each normalised over
    the picture (Wu & He 2018, one group): it halves the error of what is read of small movements."""

    def __init__(self, shape: tuple[int, int, int], channels: tuple[int, int, int]):
        super().__init__()
        height, width, depth = shape
        if height % 16 or width % 16:
            raise ValueError(f"pictures of {height}x{width}: env.image_size must be a multiple of 16")
        self.grid = (height // 16, width // 16)
        first, second, third = channels
        self.layers = nn.Sequential(
            nn.Conv2d(depth, first, 8, 4, 2),
            nn.GroupNorm(1, first),
            nn.SiLU(),
            nn.Conv2d(first, second, 4, 2, 1),
            nn.GroupNorm(1, second),
            nn.SiLU(),
            nn.Conv2d(second, third, 4, 2, 1),
            nn.GroupNorm(1, third),
            nn.SiLU(),
        ).to(memory_format=torch.channels_last)

    def forward(self, image: Tensor) -> Tensor:
        """`image` uint8 `[F, H, W, 3]` to features `[F, C, H / 16, W / 16]`."""
        return self.layers(picture_to_input(image))


def picture_to_input(image: Tensor) -> Tensor:
    """uint8 `[F, H, W, 3]` to `[F, 3, H, W]` in about [-1, 1], channels-last in memory as it arrives."""
    dtype = (
        torch.get_autocast_dtype(image.device.type) if torch.is_autocast_enabled(image.device.type) else torch.float32
    )
    return image.permute(0, 3, 1, 2).to(dtype).div_(127.5).sub_(1.0)


class FrameEncoder(nn.Module):
    """Pictures and state of one frame to N latent tokens of D numbers, each with zero mean and unit variance."""

    def __init__(
        self,
        interface: Interface,
        tokens: int,
        latent_dim: int,
        channels: tuple[int, int, int],
        feature_width: int,
        semantic_size: int = 0,
    ):
        super().__init__()
        self.keys = list(interface.cameras)
        self.side = round(tokens**0.5)
        self.cameras = nn.ModuleList([CameraEncoder(interface.cameras[key], channels) for key in self.keys])
        features = 0
        for key, camera in zip(self.keys, self.cameras):
            if camera.grid[0] % self.side or camera.grid[1] % self.side:
                raise ValueError(
                    f"model.latent_tokens={tokens} cannot divide {key}'s grid of {camera.grid[0]}x{camera.grid[1]} cells: "
                    "change model.latent_tokens or env.image_size"
                )
            features += channels[-1] * camera.grid[0] * camera.grid[1] // tokens
        self.state = None
        if interface.state_dim:
            self.state = nn.Sequential(
                nn.Linear(interface.state_dim, feature_width), nn.LayerNorm(feature_width), nn.SiLU()
            )
            features += feature_width
        self.semantic = None
        if semantic_size:
            self.semantic = nn.Sequential(
                nn.Linear(semantic_size, feature_width), nn.LayerNorm(feature_width), nn.SiLU()
            )
            features += feature_width
        self.place = nn.Parameter(torch.zeros(tokens, feature_width))
        self.hidden = nn.Linear(features, feature_width)
        self.project = nn.Sequential(
            nn.LayerNorm(feature_width), nn.SiLU(), nn.Linear(feature_width, latent_dim, bias=False)
        )  # the mean goes anyway
        self.standardize = Standardize(latent_dim)
        self.register_buffer("state_mean", torch.zeros(max(interface.state_dim, 1)))
        self.register_buffer("state_std", torch.ones(max(interface.state_dim, 1)))

    def forward(
        self, observation: dict[str, Tensor], reference: dict[str, Tensor] | None = None, real: Tensor | None = None
    ) -> Tensor:
        """Encode F frames.

        Args:
            observation: each camera uint8 `[F, H, W, 3]`, `state` `[F, S]` where the env has one, and `semantic`
                `[F, K, E]`, unit vectors, where the model has semantic tokens.
            reference: R frames drawn one by one, by whose statistics latents are standardised in training.
            real: bool `[F]`, which frames are more than padding; all when None.

        Returns:
            latents `[F, N, D]`.

        Raises:
            KeyError: an input that the model was made for is missing.
        """
        latent = self.project_frames(observation)
        if reference is not None:
            with torch.no_grad():
                reference = self.project_frames(reference)
        return self.standardize(latent, reference, real)

    def calibrate(self, observation: dict[str, Tensor]) -> None:
        """Standardise by these frames outside training."""
        with torch.no_grad():
            self.standardize.calibrate(self.project_frames(observation))

    def project_frames(self, observation: dict[str, Tensor]) -> Tensor:
        """Latents `[F, N, D]` before they are standardised."""
        parts = []
        with reduced_precision(self.place.device):
            for key, camera in zip(self.keys, self.cameras):
                features = camera(observation[key])
                parts.append(rearrange(features, "f c (p h) (q w) -> f (p q) (h w c)", p=self.side, q=self.side))
            if self.state is not None:
                state = (observation["state"].float() - self.state_mean) / self.state_std
                state = self.state(state.clamp(-10, 10))
                parts.append(state[:, None].expand(-1, self.side**2, -1))
            if self.semantic is not None:
                semantic = observation[SEMANTIC].float()
                semantic = self.semantic(semantic.flatten(1) * semantic.shape[-1] ** 0.5)
                parts.append(semantic[:, None].expand(-1, self.side**2, -1))
            features = self.hidden(torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0])
        # In float32: a latent's mean over frames is many times its spread, and bfloat16 would round the spread away.
        return self.project(features.float() + self.place)
