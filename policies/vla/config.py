"""The sizes of a vision-language-action policy; the presets are configs/vla/*.yaml."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

HEADS = ("flow", "discrete")


@dataclass(frozen=True)
class VLAConfig:
    """Sizes of one policy.

    Attributes:
        head: `flow` (flow matching over chunks, pi0, Black et al. 2024) or `discrete` (action tokens, OpenVLA, Kim et al.
            2024).
        chunk: H, actions that one prediction holds.
        width, layers, heads, kv_heads: of the transformer over vision, language and state.
        decoder_layers: of the head's transformer, whose queries are the chunk's actions.
        channels: of the vision stem's three convolutions.
        words: of an instruction that are read one by one, at most.
        flow_steps: Euler steps from noise to a chunk; head=flow.
        bins: of each action dimension; head=discrete.
        lora_rank: of the adapters in the pretrained encoder's vision transformer (Hu et al. 2022); 0 leaves it frozen.
    """

    head: str = "flow"
    chunk: int = 16
    width: int = 192
    layers: int = 4
    heads: int = 4
    kv_heads: int = 4
    decoder_layers: int = 2
    channels: tuple[int, int, int] = (48, 96, 192)
    words: int = 20
    flow_steps: int = 5
    bins: int = 256
    lora_rank: int = 0

    def __post_init__(self):
        object.__setattr__(self, "channels", tuple(self.channels))
        if self.head not in HEADS:
            raise ValueError(f"vla.head={self.head!r} is not one of {', '.join(HEADS)}")
        if self.width % self.heads or self.heads % self.kv_heads or (self.width // self.heads) % 2:
            raise ValueError(
                f"vla.width={self.width} must be a multiple of 2 x vla.heads={self.heads}, and heads a multiple of "
                f"vla.kv_heads={self.kv_heads}"
            )
        if self.bins < 2:
            raise ValueError(f"vla.bins={self.bins} must be at least 2")
        for name in ("chunk", "layers", "decoder_layers", "flow_steps", "words"):
            if getattr(self, name) < 1:
                raise ValueError(f"vla.{name} must be at least 1, got {getattr(self, name)}")
        if self.lora_rank < 0:
            raise ValueError(f"vla.lora_rank={self.lora_rank} must be at least 0")

    def to_dict(self) -> dict:
        """Plain JSON types; `VLAConfig.from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict) -> VLAConfig:
        """From a YAML group or a checkpoint; raises ValueError that names keys this version does not know."""
        known = [f.name for f in fields(cls)]
        unknown = sorted(set(value) - set(known))
        if unknown:
            raise ValueError(f"unknown keys in the policy's config: {unknown}; known: {known}")
        return cls(**value)
