"""The belief transformer: block-causal over frames, with a sliding window and a key/value cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.kernels.attention import attention, rotary_phases, rotate, shared_prefix_attention

NEVER = -1e9  # a masked score; finite, so that a row with nothing to see gives numbers and not NaN


@dataclass
class Memory:
    """The key/value cache of a history of B rows, and where it stands; candidates share it and never copy it.

    Attributes:
        keys, values: `[layers, B, kv_heads, S * N, d]`, the last S <= window - 1 frames, rotated.
        valid: `[B, S]` bool: which of those frames belong to the row's own episode.
        position: time index of the next frame; only differences matter.
        latent: `[B, N, D]`, the latest frame.
        belief: `[B, N, W]` after it.
    """

    keys: Tensor
    values: Tensor
    valid: Tensor
    position: int
    latent: Tensor
    belief: Tensor

    def forget(self, rows: Tensor) -> Memory:
        """The same memory with nothing remembered in `rows` (bool `[B]`): they start a new episode."""
        return Memory(self.keys, self.values, self.valid & ~rows[:, None], self.position, self.latent, self.belief)

    def select(self, rows: Tensor) -> Memory:
        """The memory of some rows (indices `[R]`)."""
        return Memory(
            self.keys[:, rows],
            self.values[:, rows],
            self.valid[rows],
            self.position,
            self.latent[rows],
            self.belief[rows],
        )

    def detach(self) -> Memory:
        """The same without a gradient."""
        return Memory(
            self.keys.detach(),
            self.values.detach(),
            self.valid,
            self.position,
            self.latent.detach(),
            self.belief.detach(),
        )


@dataclass
class Tail:
    """What R = B x C rows imagined since the memory they share. A row that shares with none (C = 1) goes on in a window
    of its own, which starts as the memory's.

    Attributes:
        layers: each layer's keys and values `[R, kv_heads, S * N, d]`, at most `window` frames.
        frames: imagined so far, also those that the window has left behind.
        valid: `[B, S]` bool, which of them may be seen; None for all.
    """

    layers: list[tuple[Tensor, Tensor]]
    frames: int
    valid: Tensor | None = None


class Block(nn.Module):
    """Pre-norm transformer block: RMSNorm, grouped-query attention with QK-norm and RoPE, SwiGLU."""

    def __init__(self, width: int, heads: int, kv_heads: int):
        super().__init__()
        self.heads, self.kv_heads, self.dim = heads, kv_heads, width // heads
        hidden = -(-width * 2 // 32) * 32  # SwiGLU has three matrices: 2x is the cost of a 3x plain MLP
        self.attention_norm = nn.RMSNorm(width)
        self.qkv = nn.Linear(width, (heads + 2 * kv_heads) * self.dim, bias=False)
        self.qk_scale = nn.Parameter(torch.ones(heads + kv_heads, 1))
        scale = torch.tensor([self.dim**-0.5] * heads + [1.0] * kv_heads)
        self.register_buffer("score_scale", scale[:, None], persistent=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.mlp_norm = nn.RMSNorm(width)
        self.mlp_in = nn.Linear(width, 2 * hidden, bias=False)
        self.mlp_out = nn.Linear(hidden, width, bias=False)

    def project(self, x: Tensor, phases: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`x [B, S, W]` to normalised, rotated, scaled queries `[B, heads, S, d]` and keys, values
        `[B, kv_heads, S, d]`; `phases [S, d / 2]` are of `rotary_phases`."""
        packed = self.qkv(self.attention_norm(x)).unflatten(-1, (-1, self.dim))
        query_key, value = packed.split([self.heads + self.kv_heads, self.kv_heads], dim=2)
        # QK-norm with one learned scale per head (Henry et al. 2020; Dehghani et al. 2023), and 1 / sqrt(d) of the scores.
        scale = self.qk_scale * self.score_scale
        query_key = rotate(F.rms_norm(query_key, (self.dim,)) * scale, phases[:, None]).transpose(1, 2)
        return query_key[:, : self.heads], query_key[:, self.heads :], value.transpose(1, 2)

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Residuals of the attention `[B, heads, S, d]` and of the MLP."""
        x = x + self.attention_out(attended.transpose(1, 2).flatten(2))
        gate, up = self.mlp_in(self.mlp_norm(x)).chunk(2, dim=-1)
        return x + self.mlp_out(F.silu(gate) * up)


class BeliefTransformer(nn.Module):
    """Tokens of one frame see each other and the frames before, up to `window` frames."""

    def __init__(self, width: int, layers: int, heads: int, kv_heads: int, window: int):
        super().__init__()
        self.window = window
        self.blocks = nn.ModuleList([Block(width, heads, kv_heads) for _ in range(layers)])
        self.norm = nn.RMSNorm(width)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """A whole window at once.

        Args:
            x: `[B, T, N, W]` inputs.
            valid: `[B, T]` bool, frames that may be seen; all when None.

        Returns:
            beliefs `[B, T, N, W]`, and each layer's keys and values `[B, kv_heads, T * N, d]`.
        """
        batch, frames, tokens, width = x.shape
        time = torch.arange(frames, device=x.device)
        age = time[:, None] - time
        mask = torch.where((age >= 0) & (age < self.window), 0.0, NEVER)
        mask = mask.repeat_interleave(tokens, 0).repeat_interleave(tokens, 1)[None, None]
        if valid is not None:
            mask = mask + torch.where(valid, 0.0, NEVER).repeat_interleave(tokens, 1)[:, None, None]
        phases = rotary_phases(time.repeat_interleave(tokens), self.blocks[0].dim)
        x, cache = x.flatten(1, 2), []
        for block in self.blocks:
            query, key, value = block.project(x, phases)
            x = block.finish(x, attention(query, key, value, mask))
            cache.append((key, value))
        return self.norm(x).view(batch, frames, tokens, width), cache

    def remember(
        self, cache: list[tuple[Tensor, Tensor]], latents: Tensor, beliefs: Tensor, valid: Tensor | None = None
    ) -> Memory:
        """The memory after the last frame of `latents [B, T, N, D]`, `beliefs [B, T, N, W]` and their cache."""
        tokens, frames = latents.shape[2], latents.shape[1]
        kept = min(frames, max(self.window - 1, 1))
        keys = torch.stack([key[:, :, (frames - kept) * tokens : frames * tokens] for key, _ in cache])
        values = torch.stack([value[:, :, (frames - kept) * tokens : frames * tokens] for _, value in cache])
        if valid is None:
            valid = torch.ones(latents.shape[0], frames, dtype=torch.bool, device=latents.device)
        return Memory(keys, values, valid[:, -kept:], frames, latents[:, -1], beliefs[:, -1])

    def extend(self, x: Tensor, memory: Memory, tail: Tail | None) -> tuple[Tensor, Tail]:
        """One more frame for B x C rows that share a memory of B rows.

        Args:
            x: `[B * C, N, W]` inputs of the new frame.
            memory: the shared history.
            tail: what these rows imagined since then; None at the first step.

        Returns:
            beliefs `[B * C, N, W]` and the longer tail.
        """
        rows, tokens = x.shape[:2]
        own = 1 if tail is None else tail.frames + 1
        position = torch.full((tokens,), memory.position + own - 1, device=x.device)
        phases = rotary_phases(position, self.blocks[0].dim)
        shared = rows > memory.valid.shape[0]
        if tail is None and not shared:
            every = bool(memory.valid.all())
            tail = Tail(list(zip(memory.keys, memory.values)), 0, None if every else memory.valid)
        valid = None
        if tail is not None and tail.valid is not None:
            valid = torch.cat([tail.valid, tail.valid.new_ones(len(tail.valid), 1)], 1)[:, -self.window :]
        look = self._shared(memory, own, tokens) if shared else self._alone(valid, tokens)
        layers = []
        for layer, block in enumerate(self.blocks):
            query, key, value = block.project(x, phases)
            if tail is not None:
                key = torch.cat([tail.layers[layer][0], key], dim=2)[:, :, -self.window * tokens :]
                value = torch.cat([tail.layers[layer][1], value], dim=2)[:, :, -self.window * tokens :]
            layers.append((key, value))
            x = block.finish(x, look(layer, query, key, value))
        return self.norm(x), Tail(layers, own, valid)

    @staticmethod
    def _alone(valid: Tensor | None, tokens: int):
        """Attention of rows that share no history."""
        mask = None
        if valid is not None and not bool(valid.all()):
            mask = torch.where(valid, 0.0, NEVER).repeat_interleave(tokens, 1)[:, None, None]
        return lambda layer, query, key, value: attention(query, key, value, mask)

    def _shared(self, memory: Memory, own: int, tokens: int):
        """Attention of candidates that share a history, of which the window still holds a part."""
        stored = memory.valid.shape[1]
        kept = max(0, min(stored, self.window - own))
        if not kept:
            return self._alone(None, tokens)
        seen, start = memory.valid[:, stored - kept :], (stored - kept) * tokens
        mask = None
        if not bool(seen.all()):
            mask = torch.where(seen, 0.0, NEVER).repeat_interleave(tokens, 1)

        def look(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            past_key, past_value = memory.keys[layer, :, :, start:], memory.values[layer, :, :, start:]
            return shared_prefix_attention(query, past_key, past_value, key, value, mask)

        return look

    def append(self, memory: Memory, tail: Tail, latent: Tensor, belief: Tensor) -> Memory:
        """The memory with one extended frame made part of it (C = 1)."""
        size = max(self.window - 1, 1)
        entries = size * latent.shape[1]
        keys = torch.stack([key[:, :, -entries:] for key, _ in tail.layers])
        values = torch.stack([value[:, :, -entries:] for _, value in tail.layers])
        valid = torch.cat([memory.valid, memory.valid.new_ones(len(latent), 1)], 1)[:, -size:]
        return Memory(keys, values, valid, memory.position + 1, latent, belief)

    def empty(self, rows: int, tokens: int, latent_dim: int) -> Memory:
        """The memory of `rows` rows that have seen nothing."""
        weight = self.norm.weight
        block = self.blocks[0]
        cache = weight.new_zeros(len(self.blocks), rows, block.kv_heads, 0, block.dim)
        return Memory(
            cache,
            cache,
            torch.ones(rows, 0, dtype=torch.bool, device=weight.device),
            0,
            weight.new_zeros(rows, tokens, latent_dim),
            weight.new_zeros(rows, tokens, weight.shape[0]),
        )
