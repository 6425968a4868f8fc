"""The belief transformer: block-causal over frames, with a sliding window and a key/value cache of fixed size."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.kernels.attention import QK_NORM_EPS, rotary_phases, score_mask, split_heads
from worldmodel.kernels.axial_attention import axial_attention
from worldmodel.kernels.block_causal_attention import block_causal_attention
from worldmodel.kernels.decode_attention import decode_attention
from worldmodel.kernels.dispatch import resolve
from worldmodel.kernels.residual_norm import residual_norm
from worldmodel.kernels.shared_prefix_attention import shared_prefix_attention, shared_prefix_reference
from worldmodel.prefix import Prefix


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

    def before(self, latent: Tensor) -> Tensor:
        """The frame before the next one `latent [B, N, D]`: the latest that was seen, or itself where none was."""
        seen = self.valid[:, -1:].any(1)  # a window of one frame remembers none
        return torch.where(seen[:, None, None], self.latent, latent)

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
        keys, values: of each layer, `[R, kv_heads, F * N, d]`: F = window frames, or as many as will be imagined.
        valid: `[1 or R, F]` bool, which frames may be seen.
        place: where the next frame will be written, in place, of no dimensions: the window is a ring. None where that
            would break a gradient, or gains nothing: then all move up, and the latest comes last.
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
        self.sizes = [(heads + 2 * kv_heads) * self.dim, hidden, hidden]
        self.norm = nn.RMSNorm(width)
        self.inward = nn.Linear(width, sum(self.sizes), bias=False)
        self.qk_scale = nn.Parameter(torch.ones(heads + kv_heads, 1))
        scale = torch.tensor([self.dim**-0.5] * heads + [1.0] * kv_heads)
        self.register_buffer("score_scale", scale[:, None], persistent=False)
        self.outward = nn.Linear(width + hidden, width, bias=False)
        self.prefix: Prefix | None = None  # tokens that `worldmodel adapt` learns

    @property
    def scale(self) -> Tensor:
        """What normalised queries and keys are multiplied by, `[heads + kv_heads]`: one learned number per head, and the
        scores' 1 / sqrt(d) with the queries'."""
        return (self.qk_scale * self.score_scale)[:, 0]

    def open(self, normed: Tensor) -> tuple[Tensor, Tensor]:
        """`normed [..., W]` to queries, keys and values in one, `[..., (heads + 2 kv_heads) * d]`, and the MLP's hidden
        layer `[..., hidden]`."""
        packed, gate, up = self.inward(normed).split(self.sizes, dim=-1)
        return packed, F.silu(gate) * up

    def heads_of(self, packed: Tensor, phases: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`packed [B, S, ...]` of `open` to normalised, rotated, scaled queries `[B, heads, S, d]`, keys and values
        `[B, kv_heads, S, d]`."""
        return split_heads(packed, self.scale, phases, self.heads, self.kv_heads)

    def only_seen(self, normed: Tensor) -> Tensor:
        """`packed` of `open` for what is attended to and nothing else: without the MLP, unless an adapter is around the
        layer."""
        if isinstance(self.inward, nn.Linear):
            return F.linear(normed, self.inward.weight[: self.sizes[0]])
        return self.inward(normed)[..., : self.sizes[0]]

    def close(self, attended: Tensor, hidden: Tensor, packed: Tensor) -> Tensor:
        """What the block adds to its input, `[..., W]`, from `attended [..., heads * d]`, and `hidden` and `packed` of
        `open`, whose queries see the prefix where there is one."""
        if self.prefix is not None:
            query = packed[..., : self.heads * self.dim].unflatten(-1, (self.heads, self.dim))
            query = F.rms_norm(query.float(), (self.dim,), eps=QK_NORM_EPS) * self.scale[: self.heads, None]
            attended = attended + self.prefix(query.to(attended.dtype)).flatten(-2)
        return self.outward(torch.cat([attended, hidden], dim=-1))


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
        phases = rotary_phases(time.repeat_interleave(tokens), self.blocks[0].dim)
        x, cache = x.flatten(1, 2), []
        normed = residual_norm(x, weight=self.blocks[0].norm.weight)[1]
        for block, norm in zip(self.blocks, self._following_norms(), strict=True):
            packed, hidden = block.open(normed)
            if tokens == 1:  # along time alone: normalised and rotated on the way
                attended, key = axial_attention(
                    packed[:, :, None],
                    block.scale,
                    phases,
                    block.heads,
                    block.kv_heads,
                    "time",
                    True,
                    self.window,
                    valid,
                )
                attended, key = attended[:, :, 0], key[:, :, 0].transpose(1, 2)
                value = packed[..., -block.kv_heads * block.dim :].unflatten(-1, (-1, block.dim)).transpose(1, 2)
            else:
                query, key, value = block.heads_of(packed, phases)
                attended = block_causal_attention(query, key, value, tokens, self.window, valid)
                attended = attended.transpose(1, 2).flatten(2)
            x, normed = residual_norm(block.close(attended, hidden, packed), x, weight=norm.weight)
            cache.append((key, value))
        return normed.view(batch, frames, tokens, width), cache

    def _following_norms(self) -> list[nn.Module]:
        """What normalises each block's result: the next block's norm, the last one's the transformer's own."""
        return [block.norm for block in self.blocks[1:]] + [self.norm]

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

    def begin(self, memory: Memory, rows: int, steps: int | None = None) -> Tail:
        """What `rows` = B x C rows start from, that will take `steps` of them (unknown when None)."""
        batch = memory.valid.shape[0]
        if rows == batch:
            keys, values = (
                [_latest(entry, self.window * memory.latent.shape[1], 2) for entry in entries]
                for entries in (memory.keys, memory.values)
            )
            ring = not torch.is_grad_enabled() and resolve(memory.keys) != "torch"
            place = (
                torch.zeros_like(memory.position) if ring else None
            )  # the oldest of `window` frames, which none has seen
            return Tail(keys, values, _latest(memory.valid, self.window, 1), place, None, memory.position)
        layers, _, kv_heads, _, dim = memory.keys.shape
        frames = min(self.window, steps or self.window)
        shape = (rows, kv_heads, frames * memory.latent.shape[1], dim)
        keys, values = ([memory.keys.new_zeros(shape) for _ in range(layers)] for _ in range(2))
        unseen = memory.valid.new_zeros(1, frames)
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
        tokens, place = x.shape[1], tail.place
        phases = rotary_phases(tail.position.expand(tokens), self.blocks[0].dim)
        if place is None:
            valid = torch.cat([tail.valid[:, 1:], torch.ones_like(tail.valid[:, :1])], 1)
        else:
            valid = tail.valid | (torch.arange(tail.valid.shape[1], device=x.device) == place)
        normed = residual_norm(x, weight=self.blocks[0].norm.weight)[1]
        keys, values = [], []
        for layer, (block, norm) in enumerate(zip(self.blocks, self._following_norms(), strict=True)):
            packed, hidden = block.open(normed)
            query, key, value = block.heads_of(packed, phases)
            attended, key, value = self._attend(query, key, value, memory, tail, layer, valid)
            keys.append(key)
            values.append(value)
            attended = attended.transpose(1, 2).flatten(2)
            x, normed = residual_norm(block.close(attended, hidden, packed), x, weight=norm.weight)
        past_valid = tail.past_valid
        if past_valid is not None:  # the oldest frame that this one saw is out of the next one's window
            oldest = torch.arange(past_valid.shape[1], device=x.device) <= valid.sum() - 1
            past_valid = past_valid & ~oldest
        if place is not None:
            place = (place + 1) % valid.shape[1]
        return normed, Tail(keys, values, valid, place, past_valid, tail.position + 1)

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, memory: Memory, tail: Tail, layer: int, valid: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Attention of one layer's new frame, and the layer's keys and values with it."""
        tokens, keys, values = query.shape[2], tail.keys[layer], tail.values[layer]
        past = memory.keys[layer], memory.values[layer]
        if tail.place is None:
            keys = torch.cat([keys[:, :, tokens:], key], dim=2)
            values = torch.cat([values[:, :, tokens:], value], dim=2)
            if tail.past_valid is None:
                return block_causal_attention(query, keys, values, tokens, valid=valid), keys, values
            masks = (score_mask(seen, tokens, query.dtype) for seen in (tail.past_valid, valid))
            return shared_prefix_reference(query, *past, keys, values, *masks), keys, values
        own = query, key, value, keys, values, tail.place, valid
        if tail.past_valid is None:
            return decode_attention(*own), keys, values
        return shared_prefix_attention(*own, *past, tail.past_valid), keys, values

    def append(self, memory: Memory, tail: Tail, latent: Tensor, belief: Tensor) -> Memory:
        """The memory with one extended frame made part of it (C = 1)."""
        tokens, size = latent.shape[1], self.window - 1
        keys, values, valid = tail.keys, tail.values, tail.valid
        if tail.place is not None:  # unroll the ring: its oldest frame comes first
            frames = (tail.place + torch.arange(self.window, device=latent.device)) % self.window
            entries = (frames[:, None] * tokens + torch.arange(tokens, device=latent.device)).flatten()
            keys, values = ([entry[:, :, entries] for entry in each] for each in (keys, values))
            valid = valid[:, frames]
        keys, values = (torch.stack([_latest(entry, size * tokens, 2) for entry in each]) for each in (keys, values))
        return Memory(keys, values, _latest(valid, size, 1), tail.position, latent, belief)

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


def _latest(entries: Tensor, size: int, dim: int) -> Tensor:
    """The last `size` entries along `dim`; zeros come before where there are fewer."""
    have = entries.shape[dim]
    if have >= size:
        return entries.narrow(dim, have - size, size).clone(memory_format=torch.contiguous_format)
    shape = list(entries.shape)
    shape[dim] = size - have
    return torch.cat([entries.new_zeros(shape), entries], dim)
