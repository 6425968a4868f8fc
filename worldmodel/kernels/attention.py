"""Attention as the world model needs it: over a window of frames, and over a history shared by many candidates."""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_phases(position: Tensor, dim: int, base: float = 100.0) -> Tensor:
    """Cosines, and sines with their signs, of rotary position embedding (RoPE, Su et al. 2021): `[..., 2, dim]` for
    `position [...]`.

    `base` is small because a window is tens of frames, not thousands of words."""
    frequency = base ** (-torch.arange(dim // 2, device=position.device, dtype=torch.float32) / (dim // 2))
    angle = position.to(torch.float32)[..., None] * frequency
    cosine, sine = angle.cos(), angle.sin()
    return torch.stack([torch.cat([cosine, cosine], -1), torch.cat([-sine, sine], -1)], -2)


def rotate(x: Tensor, phases: Tensor) -> Tensor:
    """Turn the pairs `(x[i], x[i + dim / 2])` of `x [..., dim]` by `phases [..., 2, dim]` (broadcast)."""
    swapped = x.unflatten(-1, (2, -1)).flip(-2).flatten(-2)
    return torch.addcmul(x * phases[..., 0, :], swapped, phases[..., 1, :])


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Grouped-query attention as matmul, softmax, matmul: on CPU several times faster than
    `scaled_dot_product_attention` at a world model's lengths, backward included.

    Args:
        query: `[B, G * K, S, d]`, scaled already; head `k * G + g` reads key head `k`.
        key, value: `[B, K, M, d]`.
        mask: added to the scores, `[1 or B, 1, S or 1, M]`.

    Returns:
        `[B, G * K, S, d]`.
    """
    batch, heads, length, dim = query.shape
    kv_heads = key.shape[1]
    groups = heads // kv_heads
    query = query.reshape(batch, kv_heads, groups * length, dim)
    scores = _scores(query, key, length)
    if mask is not None:
        scores = scores + (mask if mask.shape[2] == 1 else mask.repeat(1, 1, groups, 1))
    return _averages(scores.softmax(-1), value, length).reshape(batch, heads, length, dim)


def shared_prefix_attention(
    query: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_mask: Tensor,
    mask: Tensor,
) -> Tensor:
    """Attention of B x C candidates over a history that the C candidates of a row share, and their own steps.

    The prefix is read in place, never copied per candidate.

    Args:
        query: `[B * C, G * K, S, d]`, scaled already; rows of one history side by side.
        prefix_key, prefix_value: `[B, K, P, d]`, the shared history.
        key, value: `[B * C, K, M, d]`, each candidate's own steps.
        prefix_mask: added to the prefix's scores, `[B, P]`.
        mask: added to the scores of the own steps, `[1, M]`.

    Returns:
        `[B * C, G * K, S, d]`.
    """
    rows, heads, length, dim = query.shape
    batch, kv_heads, prefix = prefix_key.shape[:3]
    candidates, queries = rows // batch, heads // kv_heads * length
    query = query.reshape(rows, kv_heads, queries, dim)
    own = _scores(query, key, length) + mask
    if length == 1 and query.device.type == "cpu":
        split = query.unflatten(0, (batch, candidates))
        past = (split[:, :, :, :, None] * prefix_key[:, None, :, None]).sum(-1) + prefix_mask[:, None, None, None]
        past = past.flatten(0, 1)
        weights = torch.cat([past, own], dim=-1).softmax(-1)
        past, own = weights.split([prefix, own.shape[-1]], dim=-1)
        past = (past.unflatten(0, (batch, candidates))[..., None] * prefix_value[:, None, :, None]).sum(4).flatten(0, 1)
    else:
        # Candidates become queries of their history: [B, K, C * queries, d].
        grouped = query.unflatten(0, (batch, candidates)).transpose(1, 2).flatten(2, 3)
        past = grouped @ prefix_key.transpose(-1, -2) + prefix_mask[:, None, None]
        past = past.unflatten(2, (candidates, queries)).transpose(1, 2).flatten(0, 1)
        weights = torch.cat([past, own], dim=-1).softmax(-1)
        past, own = weights.split([prefix, own.shape[-1]], dim=-1)
        past = past.unflatten(0, (batch, candidates)).transpose(1, 2).flatten(2, 3) @ prefix_value
        past = past.unflatten(2, (candidates, queries)).transpose(1, 2).flatten(0, 1)
    return (past + _averages(own, value, length)).reshape(rows, heads, length, dim)


def _scores(query: Tensor, key: Tensor, length: int) -> Tensor:
    """`[B, K, Q, d]` and `[B, K, M, d]` to `[B, K, Q, M]`. For one token a row, thousands of tiny products: they are
    faster as one multiplication and a sum, which a compiler fuses."""
    if length == 1 and query.device.type == "cpu":
        return (query[:, :, :, None] * key[:, :, None]).sum(-1)
    return query @ key.transpose(-1, -2)


def _averages(weights: Tensor, value: Tensor, length: int) -> Tensor:
    """`[B, K, Q, M]` and `[B, K, M, d]` to `[B, K, Q, d]`."""
    if length == 1 and weights.device.type == "cpu":
        return (weights[..., None] * value[:, :, None]).sum(3)
    return weights @ value
