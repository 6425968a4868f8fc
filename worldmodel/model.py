"""The world model: encoder, belief transformer, transition, state heads and video decoder in one module."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.blobs import ColourBlobs
from worldmodel.config import ModelConfig
from worldmodel.decoder import StateDecoder, VideoDecoder
from worldmodel.encoder import FrameEncoder
from worldmodel.interface import SEMANTIC, Interface
from worldmodel.losses import world_model_losses
from worldmodel.readout import StateReadout
from worldmodel.transformer import BeliefTransformer, Memory, Tail
from worldmodel.transition import OUTCOME, Prediction, Transition
from worldmodel.vision_language.semantics import Semantics

CHANGE_SCALE = 5.0  # a step changes latents by some fifth of their spread


class WorldModel(nn.Module):
    """Latent video prediction for one env interface.

    Calling it computes the losses of a batch (so that data-parallel wrappers see one forward); everything else is a
    named method."""

    HIDDEN = r"encoder\.hidden|belief\.blocks\.\d+\.(inward|outward)|transition\.heads\.(first|second)"  # for Muon
    LOW_RANK = r"inward|belief\.blocks\.\d+\.(inward|outward)|transition\.heads\.(first|modulation|second)"
    HEADS: ClassVar = {"transition.heads.last": OUTCOME, "transition.heads.last_bias": OUTCOME}

    def __init__(self, interface: Interface, config: ModelConfig, semantics: Semantics | None = None):
        super().__init__()
        self.interface, self.config, self.semantics = interface, config, semantics
        tokens, dim, width = config.latent_tokens, config.latent_dim, config.width
        semantic_size = math.prod(semantics.shape) if semantics else 0
        self.encoder = FrameEncoder(interface, tokens, dim, config.channels, config.feature_width, semantic_size)
        self.inward = nn.Linear(2 * dim + interface.action_dim, width)
        self.place = nn.Parameter(torch.zeros(tokens, width))
        self.belief = BeliefTransformer(width, config.layers, config.heads, config.kv_heads, config.window)
        self.transition = Transition(dim, width, interface.action_dim, config.head_width, config.ensemble)
        self.decoder = VideoDecoder(interface, tokens, dim, config.channels) if interface.cameras else None
        self.state_decoder = StateDecoder(tokens, dim, interface.state_dim) if interface.state_dim else None
        self.semantic_head = None
        if semantics:
            self.semantic_head = nn.Sequential(
                nn.Linear(tokens * dim, config.feature_width),
                nn.LayerNorm(config.feature_width),
                nn.SiLU(),
                nn.Linear(config.feature_width, semantic_size),
                nn.Unflatten(-1, semantics.shape),
            )
            self.register_buffer("semantic_mean", torch.zeros(semantics.shape))
            self.register_buffer("semantic_std", torch.ones(semantics.shape))
        positions = interface.privileged_positions
        velocities = interface.privileged_dim - positions
        sizes = tokens * dim, self.feature_dim, config.head_width
        self.state_readout = StateReadout(*sizes, positions, velocities) if interface.privileged_dim else None
        self.blobs = self.blob_readout = None
        if config.colours and interface.cameras and not interface.privileged_dim:
            self.blobs = ColourBlobs(interface.cameras, config.colours)
            self.blob_readout = StateReadout(*sizes, self.blobs.size, self.blobs.size)

    @property
    def feature_dim(self) -> int:
        """Length of `features`."""
        return self.config.width + self.config.latent_tokens * self.config.latent_dim

    @property
    def told(self) -> bool:
        """Whether it is told in training where things are: by the simulator's state, or by the picture's colours."""
        return self.state_readout is not None or self.blobs is not None

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.place.device

    def set_scales(
        self,
        reward_std: float,
        privileged: tuple | None = None,
        state: tuple | None = None,
        semantic: tuple | None = None,
        blobs: tuple | None = None,
    ) -> None:
        """Fix the units of rewards, simulator states, state inputs, semantic tokens and colour blobs, from the data that
        training starts with.

        Args:
            reward_std: of all rewards; 0 (none seen) leaves them as they are.
            privileged, state, semantic, blobs: (mean, std) arrays of the vectors.
        """
        self.transition.reward_scale.fill_(float(reward_std) if reward_std > 1e-8 else 1.0)
        for stats, owner, prefix, least in (
            (privileged, self.state_readout, "", 1e-4),
            (state, self.encoder, "state_", 1e-4),
            (semantic, self if self.semantics else None, "semantic_", 1e-4),
            (blobs, self.blob_readout, "", 1e-3),  # a thousandth of the picture: what moves by less does not move
        ):
            if stats is not None and owner is not None:
                mean, std = (torch.as_tensor(value, dtype=torch.float32) for value in stats)
                getattr(owner, f"{prefix}mean").copy_(mean)
                getattr(owner, f"{prefix}std").copy_(std.clamp_min(least))

    def encode(
        self, observation: dict[str, Tensor], reference: dict[str, Tensor] | None = None, real: Tensor | None = None
    ) -> Tensor:
        """Observations with any leading axes, `[..., H, W, 3]` and `[..., S]`, to latents `[..., N, D]`; `reference` and
        `real [...]` as in `FrameEncoder`. Semantic tokens that are not among them are made from the pictures."""
        key = self.interface.observation_keys()[0]
        lead = observation[key].shape[: -3 if key in self.interface.cameras else -1]
        flat = {k: value.flatten(0, len(lead) - 1) for k, value in self.seen(observation).items()}
        real = None if real is None else real.flatten()
        reference = None if reference is None else self._with_semantic(reference)
        return self.encoder(self._with_semantic(flat), reference, real).unflatten(0, lead)

    def calibrate(self, observation: dict[str, Tensor]) -> None:
        """Standardise latents outside training by these frames `[F, ...]`."""
        self.encoder.calibrate(self._with_semantic(self.seen(observation)))

    def seen(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """What of a batch or an observation the model sees: pictures, state, and semantic tokens where they are given.

        Raises:
            KeyError: an input that the model was made for is missing.
        """
        inputs = {key: batch[key] for key in self.interface.observation_keys()}
        return inputs | {SEMANTIC: batch[SEMANTIC]} if self.semantics and SEMANTIC in batch else inputs

    def _with_semantic(self, frames: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.semantics is None or SEMANTIC in frames:
            return frames
        return frames | {SEMANTIC: self.semantics.tokens(frames, self.device)}

    def inputs(self, latent: Tensor, before: Tensor, previous_action: Tensor) -> Tensor:
        """Latents `[..., N, D]`, those of the frame `before` (the same where there was none), and the actions `[..., A]`
        between the two, to the transformer's inputs `[..., N, W]`. The change is an input of its own: attention finds
        differences of frames late and imprecisely, and they are the velocities."""
        change = latent - before if self.config.window > 1 else torch.zeros_like(latent)
        action = previous_action[..., None, :].expand(*latent.shape[:-1], -1)
        return self.inward(torch.cat([latent, CHANGE_SCALE * change, action], dim=-1)) + self.place

    def observe_window(
        self, latents: Tensor, previous_action: Tensor, valid: Tensor | None = None
    ) -> tuple[Tensor, list]:
        """Beliefs `[B, T, N, W]` and the cache of a window of latents `[B, T, N, D]`, previous actions `[B, T, A]`;
        frames that are not `valid [B, T]` are seen by none."""
        before = torch.cat([latents[:, :1], latents[:, :-1]], 1)
        if valid is not None:
            before = torch.where(F.pad(valid[:, :-1], (1, 0))[..., None, None], before, latents)
        return self.belief(self.inputs(latents, before, previous_action), valid)

    def start(self, rows: int) -> Memory:
        """The memory of `rows` episodes that have not begun."""
        return self.belief.empty(rows, self.config.latent_tokens, self.config.latent_dim)

    def observe(self, observation: dict[str, Tensor], previous_action: Tensor, memory: Memory) -> Memory:
        """Take one frame `[B, ...]` and the action `[B, A]` before it (zeros at an episode's start) into the memory."""
        latent = self.encode(observation)
        tail = self.belief.begin(memory, len(latent))
        inputs = self.inputs(latent, memory.before(latent), previous_action)
        belief, tail = self.belief.extend(inputs, memory, tail)
        return self.belief.append(memory, tail, latent, belief)

    def step(
        self, belief: Tensor, latent: Tensor, action: Tensor, memory: Memory, tail: Tail
    ) -> tuple[Prediction, Tensor, Tail]:
        """One imagined step of B x C rows: what `action [B * C, A]` leads to from `belief [B * C, N, W]` and `latent
        [B * C, N, D]`, the belief after it, and the tail with it."""
        prediction = self.transition(belief, latent, action)
        belief, tail = self.belief.extend(self.inputs(prediction.latent, latent, action), memory, tail)
        return prediction, belief, tail

    def features(self, belief: Tensor, latent: Tensor) -> Tensor:
        """What a policy and a critic read, `[..., F]`: the belief's mean over tokens, and the latent."""
        return torch.cat([belief.mean(-2), latent.flatten(-2)], dim=-1)

    def read_state(self, belief: Tensor, latent: Tensor) -> Tensor:
        """The simulator's state as the model knows it, `[..., P]` in its own units; privileged models only."""
        return self.state_readout(self.features(belief, latent), latent)

    def read_semantic(self, latent: Tensor) -> Tensor:
        """The semantic tokens that the model expects a frame of latents `[..., N, D]` to have: unit vectors
        `[..., K, E]`; only of models with semantic tokens."""
        read = self.semantic_head(latent.flatten(-2)) * self.semantic_std + self.semantic_mean
        return F.normalize(read, dim=-1)

    def decode(self, latent: Tensor) -> dict[str, Tensor]:
        """Latents `[..., N, D]` to uint8 pictures `[..., H, W, 3]` of every camera.

        Raises:
            ValueError: the model sees no pictures, so there is nothing to decode.
        """
        if self.decoder is None:
            raise ValueError("this world model was trained on states alone: it has no video decoder")
        lead = latent.shape[:-2]
        frames = self.decoder.frames(latent.reshape(-1, *latent.shape[-2:]))
        return {key: value.unflatten(0, lead) if len(lead) else value[0] for key, value in frames.items()}

    def decode_state(self, latent: Tensor) -> Tensor:
        """Latents `[..., N, D]` to the vector `state` `[..., S]` in the env's units; only where the env has one."""
        return self.state_decoder(latent) * self.encoder.state_std + self.encoder.state_mean

    def forward(
        self, batch: dict[str, Tensor], generator: torch.Generator | None = None, sigreg_boost: float = 1.0
    ) -> dict[str, Tensor]:
        """Losses and measures of a batch of windows: see `worldmodel.losses.world_model_losses`."""
        return world_model_losses(self, batch, generator, sigreg_boost)
