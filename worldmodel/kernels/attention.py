"""Attention in plain torch: what the operations' references are made of, and what runs on CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

NEVER = -1e9  # a masked score; finite, so that a row with nothing to see gives numbers and not NaN
QK_NORM_EPS = torch.finfo(torch.float32).eps  # whatever the format


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


def split_heads(
    packed: Tensor, scale: Tensor, phases: Tensor, heads: int, kv_heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values out of one projection, with QK-norm (Henry et al. 2020; Dehghani et al. 2023) and rotary
    positions.

    Args:
        packed: `[B, S, C]`, whose columns are `heads` queries, `kv_heads` keys and `kv_heads` values of d numbers.
        scale: `[heads + kv_heads]`, of the normalised queries (with 1 / sqrt(d) of the scores) and keys.
        phases: `[S, 2, d]` of `rotary_phases`.

    Returns:
        `[B, heads, S, d]`, `[B, kv_heads, S, d]` and `[B, kv_heads, S, d]`, in packed's format.
    """
    dim = phases.shape[-1]
    query_key, value = packed.unflatten(-1, (-1, dim)).split([heads + kv_heads, kv_heads], dim=-2)
    exact = torch.promote_types(packed.dtype, torch.float32)
    normed = F.rms_norm(query_key.to(exact), (dim,), eps=QK_NORM_EPS) * scale[:, None]
    query_key = rotate(normed, phases[:, None]).to(packed.dtype).transpose(1, 2)
    return query_key[:, :heads], query_key[:, heads:], value.transpose(1, 2)


def score_mask(seen: Tensor, tokens: int, dtype: torch.dtype) -> Tensor:
    """What to add to scores for the keys of frames that are `seen [..., S]` or not: `[..., S * tokens]`."""
    mask = torch.where(seen, 0.0, max(NEVER, torch.finfo(dtype).min)).to(dtype)
    return mask if tokens == 1 else mask.repeat_interleave(tokens, -1)


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Grouped-query attention as matmul, softmax, matmul: at a world model's lengths, backward included, several times
    faster than `scaled_dot_product_attention` on CPUs that multiply bfloat16, and no slower in float32.

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
    scores = scores_of(query, key, length)
    if mask is not None:
        scores = scores + (mask if mask.shape[2] == 1 else mask.repeat(1, 1, groups, 1))
    return averages_of(scores.softmax(-1).to(value.dtype), value, length).reshape(batch, heads, length, dim)


def scores_of(query: Tensor, key: Tensor, length: int) -> Tensor:
    """`[B, K, Q, d]` and `[B, K, M, d]` to `[B, K, Q, M]`. For one token a row, thousands of tiny products: they are
    faster as one multiplication and a sum, which a compiler fuses."""
    if length == 1 and query.device.type == "cpu":
        return (query[:, :, :, None] * key[:, :, None]).sum(-1)
    return query @ key.transpose(-1, -2)


def averages_of(weights: Tensor, value: Tensor, length: int) -> Tensor:
    """`[B, K, Q, M]` and `[B, K, M, d]` to `[B, K, Q, d]`."""
    if length == 1 and weights.device.type == "cpu":
        return (weights[..., None] * value[:, :, None]).sum(3)
    return weights @ value
