"""The belief transformer: block-causal over frames, with a sliding window and a key/value cache of fixed size."""

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
        keys, values: `[layers, B, kv_heads, S * N, d]`, the last S = window - 1 frames, rotated; zeros where fewer were
            seen.
        valid: `[B, S]` bool: which of those frames were seen and belong to the row's own episode.
        position: time index of the next frame, of no dimensions; only differences matter.
        latent: `[B, N, D]`, the latest frame.
        belief: `[B, N, W]` after it.
    """

    keys: Tensor
    values: Tensor
    valid: Tensor
    position: Tensor
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
    """The window of R = B x C rows that go on from a memory: of the frames they imagined since, for candidates that
    share the memory; of these and the memory's, for rows that share with none (C = 1). Its size never changes, so a
    step is always the same computation.

    Attributes:
        keys, values: of each layer, `[R, kv_heads, window * N, d]`.
        valid: `[1 or R, window]` bool, which frames may be seen.
        place: where the next frame will be written, in place, of no dimensions; None where that would break a gradient
            or the order matters: then all move up, and the latest comes last.
        past_valid: `[B, S]` bool, which of a shared memory's frames are still in the window; None where C = 1.
        position: time index of the next frame, of no dimensions.
    """

    keys: list[Tensor]
    values: list[Tensor]
    valid: Tensor
    place: Tensor | None
    past_valid: Tensor | None
    position: Tensor


class Block(nn.Module):
    """Pre-norm transformer block with attention and MLP side by side (Wang and Komatsuzaki 2021; Dehghani et al. 2023):
    RMSNorm, grouped-query attention with QK-norm and RoPE, SwiGLU. Two matrices, so two launches, do all."""

    def __init__(self, width: int, heads: int, kv_heads: int):
        super().__init__()
        self.heads, self.kv_heads, self.dim = heads, kv_heads, width // heads
        hidden = -(-width * 2 // 32) * 32  # SwiGLU has three matrices: 2x is the cost of a 3x plain MLP
        self.sizes = [(heads + kv_heads) * self.dim, kv_heads * self.dim, hidden, hidden]
        self.norm = nn.RMSNorm(width)
        self.inward = nn.Linear(width, sum(self.sizes), bias=False)
        self.qk_scale = nn.Parameter(torch.ones(heads + kv_heads, 1))
        scale = torch.tensor([self.dim**-0.5] * heads + [1.0] * kv_heads)
        self.register_buffer("score_scale", scale[:, None], persistent=False)
        self.outward = nn.Linear(width + hidden, width, bias=False)

    def project(self, x: Tensor, phases: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`x [B, S, W]` to normalised, rotated, scaled queries `[B, heads, S, d]`, keys and values
        `[B, kv_heads, S, d]`, and the MLP's hidden layer `[B, S, hidden]`; `phases [S, 2, d]` are of
        `rotary_phases`."""
        query_key, value, gate, up = self.inward(self.norm(x)).split(self.sizes, dim=-1)
        query_key, value = query_key.unflatten(-1, (-1, self.dim)), value.unflatten(-1, (-1, self.dim))
        # QK-norm with one learned scale per head (Henry et al. 2020; Dehghani et al. 2023), and 1 / sqrt(d) of the scores.
        scale = self.qk_scale * self.score_scale
        query_key = rotate(F.rms_norm(query_key, (self.dim,)) * scale, phases[:, None]).transpose(1, 2)
        hidden = F.silu(gate) * up
        return query_key[:, : self.heads], query_key[:, self.heads :], value.transpose(1, 2), hidden

    def finish(self, x: Tensor, attended: Tensor, hidden: Tensor) -> Tensor:
        """The residual of attention `[B, heads, S, d]` and MLP `[B, S, hidden]`."""
        return x + self.outward(torch.cat([attended.transpose(1, 2).flatten(2), hidden], dim=-1))


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
            mask = mask + _mask(valid, tokens)[:, None, None]
        phases = rotary_phases(time.repeat_interleave(tokens), self.blocks[0].dim)
        x, cache = x.flatten(1, 2), []
        for block in self.blocks:
            query, key, value, hidden = block.project(x, phases)
            x = block.finish(x, attention(query, key, value, mask), hidden)
            cache.append((key, value))
        return self.norm(x).view(batch, frames, tokens, width), cache

    def remember(
        self, cache: list[tuple[Tensor, Tensor]], latents: Tensor, beliefs: Tensor, valid: Tensor | None = None
    ) -> Memory:
        """The memory after the last frame of `latents [B, T, N, D]`, `beliefs [B, T, N, W]` and their cache."""
        tokens, frames = latents.shape[2], latents.shape[1]
        size = self.window - 1
        if valid is None:
            valid = torch.ones(latents.shape[0], frames, dtype=torch.bool, device=latents.device)
        keys, values = (
            torch.stack([_latest(entry[which][:, :, : frames * tokens], size * tokens, 2) for entry in cache])
            for which in (0, 1)
        )
        position = torch.full((), frames, device=latents.device)
        return Memory(keys, values, _latest(valid, size, 1), position, latents[:, -1], beliefs[:, -1])

    def begin(self, memory: Memory, rows: int) -> Tail:
        """What `rows` = B x C rows start from."""
        batch = memory.valid.shape[0]
        if rows == batch:
            keys, values = (
                [_latest(entry, self.window * memory.latent.shape[1], 2) for entry in entries]
                for entries in (memory.keys, memory.values)
            )
            return Tail(keys, values, _latest(memory.valid, self.window, 1), None, None, memory.position)
        layers, _, kv_heads, _, dim = memory.keys.shape
        shape = (rows, kv_heads, self.window * memory.latent.shape[1], dim)
        keys, values = ([memory.keys.new_zeros(shape) for _ in range(layers)] for _ in range(2))
        unseen = memory.valid.new_zeros(1, self.window)
        place = None if torch.is_grad_enabled() else torch.zeros_like(memory.position)
        past_valid = memory.valid.clone(memory_format=torch.contiguous_format)
        return Tail(keys, values, unseen, place, past_valid, memory.position)

    def extend(self, x: Tensor, memory: Memory, tail: Tail) -> tuple[Tensor, Tail]:
        """One more frame for B x C rows that share a memory of B rows.

        Args:
            x: `[B * C, N, W]` inputs of the new frame.
            memory: the shared history.
            tail: of `begin`, or of the step before.

        Returns:
            beliefs `[B * C, N, W]` and the tail with the new frame.
        """
        tokens = x.shape[1]
        phases = rotary_phases(tail.position.expand(tokens), self.blocks[0].dim)
        place = tail.place
        if place is None:
            valid = torch.cat([tail.valid[:, 1:], torch.ones_like(tail.valid[:, :1])], 1)
        else:
            valid = tail.valid | (torch.arange(self.window, device=x.device) == place)
            entries = place * tokens + torch.arange(tokens, device=x.device)
            place = (place + 1) % self.window
        mask = _mask(valid, tokens)
        past_valid = tail.past_valid
        past_mask = None if past_valid is None else _mask(past_valid, tokens)
        keys, values = [], []
        for layer, block in enumerate(self.blocks):
            query, key, value, hidden = block.project(x, phases)
            if place is None:
                key = torch.cat([tail.keys[layer][:, :, tokens:], key], dim=2)
                value = torch.cat([tail.values[layer][:, :, tokens:], value], dim=2)
            else:
                key = tail.keys[layer].index_copy_(2, entries, key)
                value = tail.values[layer].index_copy_(2, entries, value)
            keys.append(key)
            values.append(value)
            if past_mask is None:
                attended = attention(query, key, value, mask[:, None, None])
            else:
                past = memory.keys[layer], memory.values[layer]
                attended = shared_prefix_attention(query, *past, key, value, past_mask, mask)
            x = block.finish(x, attended, hidden)
        if past_valid is not None:  # the oldest frame that this one saw is out of the next one's window
            oldest = torch.arange(past_valid.shape[1], device=x.device) <= valid.sum() - 1
            past_valid = past_valid & ~oldest
        return self.norm(x), Tail(keys, values, valid, place, past_valid, tail.position + 1)

    def append(self, memory: Memory, tail: Tail, latent: Tensor, belief: Tensor) -> Memory:
        """The memory with one extended frame made part of it (C = 1)."""
        size = self.window - 1
        keys, values = (
            torch.stack([_latest(entry, size * latent.shape[1], 2) for entry in entries])
            for entries in (tail.keys, tail.values)
        )
        return Memory(keys, values, _latest(tail.valid, size, 1), tail.position, latent, belief)

    def empty(self, rows: int, tokens: int, latent_dim: int) -> Memory:
        """The memory of `rows` rows that have seen nothing."""
        weight = self.norm.weight
        block, size = self.blocks[0], self.window - 1
        cache = weight.new_zeros(len(self.blocks), rows, block.kv_heads, size * tokens, block.dim)
        return Memory(
            cache,
            cache,
            torch.zeros(rows, size, dtype=torch.bool, device=weight.device),
            torch.zeros((), dtype=torch.long, device=weight.device),
            weight.new_zeros(rows, tokens, latent_dim),
            weight.new_zeros(rows, tokens, weight.shape[0]),
        )


def _mask(valid: Tensor, tokens: int) -> Tensor:
    """What to add to the scores of frames `valid [B, S]`: `[B, S * tokens]`."""
    mask = torch.where(valid, 0.0, NEVER)
    return mask if tokens == 1 else mask.repeat_interleave(tokens, 1)


def _latest(entries: Tensor, size: int, dim: int) -> Tensor:
    """The last `size` entries along `dim`; zeros come before where there are fewer."""
    have = entries.shape[dim]
    if have >= size:
        return entries.narrow(dim, have - size, size).clone(memory_format=torch.contiguous_format)
    shape = list(entries.shape)
    shape[dim] = size - have
    return torch.cat([entries.new_zeros(shape), entries], dim)
