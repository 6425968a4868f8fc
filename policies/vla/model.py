"""The vision-language-action model: pictures, state and a sentence to a chunk of actions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from policies.vla.config import VLAConfig
from policies.vla.heads import make_head
from policies.vla.instructions import Instructions, Read
from policies.vla.statistics import Statistics
from policies.vla.transformer import Trunk
from worldmodel.encoder import CameraEncoder, compress_outliers
from worldmodel.interface import SEMANTIC, Interface
from worldmodel.precision import reduced_precision
from worldmodel.vision_language.encoder import EncoderError
from worldmodel.vision_language.semantics import Semantics

if TYPE_CHECKING:
    from policies.vla.tuned_encoder import TunedEncoder


class VLA(nn.Module):
    """A vision-language-action model.

    The trunk's tokens, in this order: of each camera the pretrained encoder's (the whole picture, then its patches) and
    the trained stem's grid; the instruction as a whole; its words; the state. All see each other, then the head's queries
    see them. The pretrained encoder tells what things are, the stem, as in RT-2 and OpenVLA a vision encoder that is
    trained along, where they are.

    Args:
        interface: of the env that it acts in.
        config: sizes.
        semantics: the pretrained vision-language encoder.
        statistics: of the demonstrations.

    Raises:
        ValueError: the env shows no picture.
        EncoderError: the encoder reads no text.
    """

    LOW_RANK = r"(trunk\.transformer|head\.decoder)\.blocks\.\d+\.(inward|outward)"  # see worldmodel.adaptation
    HEADS: ClassVar = {"head.outward.weight": (), "head.outward.bias": ()}

    def __init__(self, interface: Interface, config: VLAConfig, semantics: Semantics | None, statistics: Statistics):
        super().__init__()
        if not interface.cameras:
            raise ValueError(
                "a vision-language-action policy needs pictures: record with env.observation=pixels or both"
            )
        if semantics is None:
            raise EncoderError("a vision-language-action policy reads sentences: set vision_language=embedded")
        self.interface, self.config, self.semantics = interface, config, semantics
        self.instructions = Instructions(semantics, config.words)
        width = config.width
        tokens, dim = semantics.shape
        self.semantic = nn.Linear(dim, width)
        self.scale = math.sqrt(dim)  # of unit vectors, to numbers of about one
        self.stems = nn.ModuleList([CameraEncoder(shape, config.channels) for shape in interface.cameras.values()])
        self.seen = nn.Linear(config.channels[-1], width)
        self.whole = nn.Linear(self.instructions.dim, width)
        self.words = None
        if self.instructions.width:
            self.words = nn.Sequential(nn.LayerNorm(self.instructions.width), nn.Linear(self.instructions.width, width))
        self.state = None
        if statistics.state is not None:
            self.state = nn.Linear(interface.state_dim, width)
            mean, std = statistics.state.moments()
            self.register_buffer("state_mean", mean, persistent=False)
            self.register_buffer("state_std", std, persistent=False)
        cells = sum(stem.grid[0] * stem.grid[1] for stem in self.stems)
        self.vision_tokens = tokens + cells
        words = config.words if self.words is not None else 0
        self.no_word = nn.Parameter(0.02 * torch.randn(width))
        self.place = nn.Parameter(0.02 * torch.randn(self.vision_tokens + 1 + words + (self.state is not None), width))
        self.trunk = Trunk(width, config.layers, config.heads, config.kv_heads)
        self.head = make_head(interface.action_dim, config, statistics.action)
        self.adapters = None
        if config.lora_rank:
            self.tune_encoder(config.lora_rank)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.place.device

    def tune_encoder(self, rank: int) -> TunedEncoder:
        """The pretrained encoder with low-rank adapters, made where there are none yet.

        Raises:
            ValueError: there are, of another rank.
            EncoderError: it has no linear layers to adapt.
        """
        from policies.vla.tuned_encoder import TunedEncoder

        if self.adapters is None:
            self.adapters = TunedEncoder(self.semantics.encoder(), rank).to(self.device)
        elif self.adapters.rank != rank:
            raise ValueError(f"the policy's encoder has adapters of rank {self.adapters.rank} already, not {rank}")
        return self.adapters

    def tokens(self, observation: Mapping[str, Tensor], said: Read) -> Tensor:
        """The trunk's result for B frames, `[B, N, W]`.

        Args:
            observation: pictures uint8 `[B, H, W, 3]`; `state [B, S]` where the env has one (its mean where it is left out);
                `semantic [B, K, E]` where the encoder's tokens are known already.
            said: the instructions.
        """
        parts = [self.semantic(self.scale * self.semantic_tokens(observation))]
        for key, stem in zip(self.interface.cameras, self.stems, strict=True):
            with reduced_precision(self.device):
                grid = stem(observation[key])
            parts.append(self.seen(grid.float().flatten(2).transpose(1, 2)))
        parts.append(self.whole(self.scale * said.whole)[:, None])
        if self.words is not None:
            parts.append(torch.where(said.present[..., None], self.words(said.words), self.no_word))
        if self.state is not None:
            state = observation.get("state")
            if state is None:
                normed = said.whole.new_zeros(len(said.whole), self.interface.state_dim)
            else:
                normed = compress_outliers((state - self.state_mean) / self.state_std)
            parts.append(self.state(normed)[:, None])
        return self.trunk(torch.cat(parts, 1) + self.place)

    def semantic_tokens(self, observation: Mapping[str, Tensor]) -> Tensor:
        """The pretrained encoder's tokens `[B, K, E]`: through the adapters where it is tuned, else from `observation`
        where they are known."""
        if self.adapters is not None:
            return torch.cat([self.adapters(observation[camera]) for camera in self.interface.cameras], 1)
        if SEMANTIC in observation:
            return observation[SEMANTIC]
        return self.semantics.tokens(observation, self.device)

    def loss(
        self,
        observation: Mapping[str, Tensor],
        said: Read,
        actions: Tensor,
        mask: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The head's loss of demonstrated chunks; shapes as in `tokens` and `ActionHead.loss`."""
        return self.head.loss(self.tokens(observation, said), actions, mask, generator)

    @torch.no_grad()
    def predict(
        self, observation: Mapping[str, Tensor], said: Read, generator: torch.Generator | None = None
    ) -> Tensor:
        """Chunks `[B, H, A]` in [-1, 1]."""
        return self.propose(observation, said, 1, generator)[:, 0]

    @torch.no_grad()
    def propose(
        self,
        observation: Mapping[str, Tensor],
        said: Read,
        count: int,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """K different chunks for each frame, `[B, K, H, A]` in [-1, 1]: see `ActionHead.propose`."""
        tokens = self.tokens(observation, said)
        return self.head.propose(tokens, count, generator, temperature).clamp(-1.0, 1.0)
