"""The policy's two transformers: one over all that was seen and said, one whose queries are the actions of a chunk."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from worldmodel.kernels.attention import attention, rotary_phases
from worldmodel.kernels.residual_norm import residual_norm
from worldmodel.transformer import BeliefTransformer, Block

Cache = list[tuple[Tensor, Tensor]]


class Trunk(nn.Module):
    """Tokens of one frame, all of which see each other: the world model's transformer with a window of one frame."""

    def __init__(self, width: int, layers: int, heads: int, kv_heads: int):
        super().__init__()
        self.transformer = BeliefTransformer(width, layers, heads, kv_heads, window=1)

    def forward(self, tokens: Tensor) -> Tensor:
        """`[B, N, W]` to `[B, N, W]`, normalised."""
        return self.transformer(tokens[:, None])[0][:, 0]


class ActionDecoder(nn.Module):
    """Blocks in which the queries of a chunk see each other and the trunk's tokens, whose keys and values are computed
    once per observation, however often the queries change (the action expert of pi0, Black et al. 2024, with SmolVLA's
    cached prefix, Shukor et al. 2025).

    Actions are at rotary positions 1, 2, ... of their step in the chunk, the trunk's tokens at 0. The queries are few:
    their attention is plain torch on every device.
    """

    def __init__(self, width: int, layers: int, heads: int, kv_heads: int):
        super().__init__()
        self.blocks = nn.ModuleList([Block(width, heads, kv_heads) for _ in range(layers)])
        self.norm = nn.RMSNorm(width)

    def remember(self, tokens: Tensor) -> Cache:
        """Each layer's keys and values `[B, kv_heads, N, d]` of the trunk's `tokens [B, N, W]`."""
        phases = rotary_phases(torch.zeros(tokens.shape[1], device=tokens.device), self.blocks[0].dim)
        cache = []
        for block in self.blocks:
            cache.append(block.heads_of(block.only_seen(tokens), phases)[1:])
        return cache

    def forward(self, queries: Tensor, steps: Tensor, cache: Cache) -> Tensor:
        """`queries [B, Q, W]` of the chunk's `steps [Q]` (from 0), to `[B, Q, W]`, normalised."""
        phases = rotary_phases(steps + 1, self.blocks[0].dim)
        norms = [block.norm for block in self.blocks[1:]] + [self.norm]
        x, normed = queries, residual_norm(queries, weight=self.blocks[0].norm.weight)[1]
        for block, norm, (past_key, past_value) in zip(self.blocks, norms, cache, strict=True):
            packed, hidden = block.open(normed)
            query, key, value = block.heads_of(packed, phases)
            attended = attention(query, torch.cat([past_key, key], 2), torch.cat([past_value, value], 2))
            attended = attended.transpose(1, 2).flatten(2)
            x, normed = residual_norm(block.close(attended, hidden, packed), x, weight=norm.weight)
        return normed


def time_features(time: Tensor, width: int, longest: float = 4.0, shortest: float = 4e-3) -> Tensor:
    """Sines and cosines of `time [B]` in [0, 1], of geometric periods: `[B, width]` (Vaswani et al. 2017; the periods are
    pi0's)."""
    periods = torch.logspace(math.log10(shortest), math.log10(longest), width // 2, device=time.device)
    angle = 2 * math.pi * time[:, None].float() / periods
    return torch.cat([angle.sin(), angle.cos()], -1)
