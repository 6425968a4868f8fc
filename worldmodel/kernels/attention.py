"""Attention as the world model needs it: over a window of frames, and over a history shared by many candidates."""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_phases(position: Tensor, dim: int, base: float = 100.0) -> Tensor:
    """Unit complex numbers of rotary position embedding (RoPE, Su et al. 2021), `[..., dim / 2]` for `position [...]`.

    `base` is small because a window is tens of frames, not thousands of words."""
    frequency = base ** (-torch.arange(dim // 2, device=position.device, dtype=torch.float32) / (dim // 2))
    angle = position.to(torch.float32)[..., None] * frequency
    return torch.polar(torch.ones_like(angle), angle)


def rotate(x: Tensor, phases: Tensor) -> Tensor:
    """Turn neighbouring pairs of `x [..., dim]` by complex `phases [..., dim / 2]` (broadcast): one multiplication."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * phases).flatten(-2).to(x.dtype)


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Grouped-query attention as matmul, softmax, matmul: on CPU several times faster than
    `scaled_dot_product_attention` at a world model's lengths, backward included.

    Args:
        query: `[B, G * K, S, d]`, scaled already; head `k * G + g` reads key head `k`.
        key, value: `[B, K, M, d]`.
        mask: added to the scores, `[1 or B, 1, S, M]`.

    Returns:
        `[B, G * K, S, d]`.
    """
    batch, heads, length, dim = query.shape
    kv_heads = key.shape[1]
    groups = heads // kv_heads
    scores = query.reshape(batch, kv_heads, groups * length, dim) @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores + mask.repeat(1, 1, groups, 1)
    return (scores.softmax(-1) @ value).reshape(batch, heads, length, dim)


def shared_prefix_attention(
    query: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_mask: Tensor | None = None,
) -> Tensor:
    """Attention of B x C candidates over a history that the C candidates of a row share, and their own steps.

    The prefix is read once per row, never copied per candidate.

    Args:
        query: `[B * C, G * K, S, d]`, scaled already; rows of one history side by side.
        prefix_key, prefix_value: `[B, K, P, d]`, the shared history.
        key, value: `[B * C, K, M, d]`, each candidate's own steps.
        prefix_mask: added to the prefix's scores, `[B, P]`.

    Returns:
        `[B * C, G * K, S, d]`.
    """
    rows, heads, length, dim = query.shape
    batch, kv_heads, prefix = prefix_key.shape[:3]
    candidates, queries = rows // batch, heads // kv_heads * length
    query = query.reshape(rows, kv_heads, queries, dim)
    own = query @ key.transpose(-1, -2)
    grouped = query.view(batch, candidates, kv_heads, queries, dim).transpose(1, 2)
    grouped = grouped.reshape(batch, kv_heads, candidates * queries, dim)
    past = grouped @ prefix_key.transpose(-1, -2)
    if prefix_mask is not None:
        past = past + prefix_mask[:, None, None]
    past = past.view(batch, kv_heads, candidates, queries, prefix).transpose(1, 2)
    weights = torch.cat([past.reshape(rows, kv_heads, queries, prefix), own], dim=-1).softmax(-1)
    past, own = weights.split([prefix, own.shape[-1]], dim=-1)
    past = past.reshape(batch, candidates, kv_heads, queries, prefix).transpose(1, 2)
    past = past.reshape(batch, kv_heads, candidates * queries, prefix) @ prefix_value
    past = past.view(batch, kv_heads, candidates, queries, dim).transpose(1, 2).reshape(rows, kv_heads, queries, dim)
    return (past + own @ value).reshape(rows, heads, length, dim)
