"""The sizes of a world model and the weights of its losses; the presets are configs/model/*.yaml."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms of the world model's loss; a term is left out where its weight is 0."""

    latent: float = 1.0  # next latent, one step
    open_loop: float = 1.0  # the same, `open_loop` steps through the cache
    sigreg: float = 0.002  # the latents' distance from a unit Gaussian
    reward: float = 1.0  # one step and open loop, rewards in units of their standard deviation
    terminal: float = 1.0  # binary cross-entropy of `continue`
    privileged: float = 1.0  # the simulator's state, read from latent and belief
    blobs: float = 1.0  # where the picture's colours are, read alike, where there is no simulator's state
    positions: float = 10.0  # of positions within these terms, where velocities weigh 1
    semantic: float = 1.0  # semantic tokens, read from the latents of frames and of the open loop, where there are any
    decoder: float = 1.0  # video decoder, on detached latents
    reconstruction: float = 0.0  # the decoder's gradient into the encoder, as a share of its own


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of one world model.

    Attributes:
        latent_tokens: tokens per frame, N: a square number whose root divides the encoder's grid (image size / 16).
        latent_dim: numbers per token, D.
        width, layers, heads, kv_heads: of the belief transformer (grouped-query attention).
        window: frames that one token sees, itself included; beyond one, with the change since the frame before the first.
        ensemble: transition heads; their disagreement is the model's uncertainty.
        head_width: hidden width of the transition, reward and state heads.
        channels: of the encoder's three convolutions and, mirrored, of the decoder.
        feature_width: hidden width between the convolutions and the latent.
        open_loop: steps of the open-loop loss.
        decoder_frames: frames per update that train the video decoder.
        colours: clusters of colours in each camera's picture, whose places are a training target where the simulator's
            state is none; 0 for no such target.
        losses: weights of the loss terms.
    """

    latent_tokens: int = 1
    latent_dim: int = 32
    width: int = 192
    layers: int = 2
    heads: int = 4
    kv_heads: int = 1
    window: int = 8
    ensemble: int = 3
    head_width: int = 256
    channels: tuple[int, int, int] = (32, 48, 64)
    feature_width: int = 256
    open_loop: int = 5
    decoder_frames: int = 24
    colours: int = 12
    losses: LossWeights = field(default_factory=LossWeights)

    def __post_init__(self):
        object.__setattr__(self, "channels", tuple(self.channels))
        if isinstance(self.losses, dict):
            object.__setattr__(self, "losses", LossWeights(**self.losses))
        if self.width % self.heads or self.heads % self.kv_heads or (self.width // self.heads) % 2:
            raise ValueError(
                f"model.width={self.width} must be a multiple of 2 x model.heads={self.heads}, "
                f"and heads a multiple of model.kv_heads={self.kv_heads}"
            )
        if round(self.latent_tokens**0.5) ** 2 != self.latent_tokens:
            raise ValueError(f"model.latent_tokens={self.latent_tokens} must be a square number: 1, 4, 9, 16, ...")
        if self.colours < 0:
            raise ValueError(f"model.colours must be at least 0 (none), got {self.colours}")
        for name in ("width", "layers", "window", "ensemble", "open_loop", "latent_dim", "head_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name} must be at least 1, got {getattr(self, name)}")

    def to_dict(self) -> dict:
        """Plain JSON types; `ModelConfig.from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict) -> ModelConfig:
        """From a YAML group or a checkpoint; raises ValueError that names keys this version does not know."""
        unknown = set(value) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(
                f"unknown keys in the model's config: {sorted(unknown)}; known: {[f.name for f in fields(cls)]}"
            )
        return cls(**value)
