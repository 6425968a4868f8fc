"""Attention of candidates that share a history: each one's new frame over the history and its own frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from worldmodel.kernels.attention import averages_of, score_mask, scores_of
from worldmodel.kernels.decode_attention import (
    append,
    block_size,
    check_frame,
    config_for,
    empty_like_query,
    resolve_without_gradient,
    warps,
    with_new_frame,
)
from worldmodel.kernels.dispatch import Backend, accumulator, dot_precision
from worldmodel.kernels.jit import kernel, part

if TYPE_CHECKING:
    import triton.language as tl

_HALF, _SINGLE = {"rows": 64, "most_rows": 256, "keys": 32}, {"rows": 32, "most_rows": 128, "keys": 32}
CONFIGS = {
    80: {"half": {**_HALF, "num_stages": 2}, "single": {**_SINGLE, "num_stages": 2}},
    90: {"half": {**_HALF, "num_stages": 3}, "single": {**_SINGLE, "num_stages": 2}},
    100: {"half": {**_HALF, "num_stages": 3}, "single": {**_SINGLE, "num_stages": 2}},
}
"""Of the formats of two bytes, which tensor cores multiply, and of four, which they don't: queries of a key head in a
program, up to the most where fewer would not hold `SHARING` candidates of head dimension 64, and keys that it reads at
once."""

SHARING = 4  # candidates of a program from which on reading the history is no longer most of the work


def shared_prefix_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    place: Tensor,
    valid: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    prefix_valid: Tensor,
    backend: Backend | None = None,
) -> Tensor:
    """Grouped-query attention of the new frame, N tokens, of B x C candidates over a history of S frames that the C
    candidates of a row share, and a ring of W frames of their own, the new one included. Its keys and values are
    written into the ring.

    The history is read once for several candidates, and never copied. Nothing here waits for the device, so that a step
    can be recorded as a CUDA graph and replayed. It has no gradient: `shared_prefix_reference` has. Candidates share
    products of matrices with their neighbours, so a candidate that is not finite may spoil a few beside it.

    Args:
        query: `[B * C, G * K, N, d]`, scaled already; head `k * G + g` reads key head `k`; rows of one history side by
            side.
        key, value: `[B * C, K, N, d]`, of the new frame.
        key_cache, value_cache: `[B * C, K, W * N, d]`, contiguous, changed in place.
        place: which of the W frames becomes the new one, int64 of no dimensions, on the device.
        valid: `[1, W]` bool, own frames that may be seen; the new one is seen whatever it says.
        prefix_key, prefix_value: `[B, K, S * N, d]`, the shared history.
        prefix_valid: `[B, S]` bool, which of its frames may be seen.
        backend: see `worldmodel.kernels.choose`.

    Returns:
        `[B * C, G * K, N, d]`.

    Raises:
        RuntimeError: a gradient is needed, and `backend` is a kernel; `auto` takes plain torch then.
    """
    own = query, key, value, key_cache, value_cache
    if resolve_without_gradient((*own, prefix_key, prefix_value), backend) != "torch":
        return torch.ops.worldmodel.shared_prefix_attention(*own, place, valid, prefix_key, prefix_value, prefix_valid)
    append(key_cache, key, place)
    append(value_cache, value, place)
    tokens = key.shape[2]
    prefix_mask = score_mask(prefix_valid, tokens, query.dtype)
    mask = score_mask(with_new_frame(valid, place), tokens, query.dtype)
    return shared_prefix_reference(query, prefix_key, prefix_value, key_cache, value_cache, prefix_mask, mask)


def shared_prefix_reference(
    query: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_mask: Tensor,
    mask: Tensor,
) -> Tensor:
    """The same in plain torch, over own frames that the new one has joined; with a gradient.

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
    own = scores_of(query, key, length) + mask
    # Candidates become queries of their history: [B, K, C * queries, d].
    grouped = query.unflatten(0, (batch, candidates)).transpose(1, 2).flatten(2, 3)
    past = grouped @ prefix_key.transpose(-1, -2) + prefix_mask[:, None, None]
    past = past.unflatten(2, (candidates, queries)).transpose(1, 2).flatten(0, 1)
    weights = torch.cat([past, own], dim=-1).softmax(-1)
    past, own = weights.split([prefix, own.shape[-1]], dim=-1)
    past = past.unflatten(0, (batch, candidates)).transpose(1, 2).flatten(2, 3) @ prefix_value
    past = past.unflatten(2, (candidates, queries)).transpose(1, 2).flatten(0, 1)
    return (past + averages_of(own, value, length)).reshape(rows, heads, length, dim)


# A program has the queries of R candidates and one key head, R x G heads x N tokens, which share every load of the
# history. Own keys go by frames, each of all R candidates: a query takes its candidate's from among them. That
# multiplies more than it needs and reads no more, and reading is what takes the time. The new frame comes first, from
# registers: every query sees its own, so the softmax's running maximum is a number from then on, and what is masked
# weighs exactly nothing.


@part
def _accumulate(query, key, value, seen, averages, total, highest, PRECISION: tl.constexpr):
    """A block of keys more: `query [rows, d]`, `key`, `value [keys, d]`, `seen [rows or 1, keys]`."""
    scores = tl.dot(query, tl.trans(key), out_dtype=averages.dtype, input_precision=PRECISION)
    scores = tl.where(seen, scores, -1e30)
    higher = tl.maximum(highest, tl.max(scores, 1))
    weights = tl.exp(scores - higher[:, None])
    decay = tl.exp(highest - higher)
    averages = tl.dot(weights.to(value.dtype), value, averages * decay[:, None], input_precision=PRECISION)
    return averages, total * decay + tl.sum(weights, 1), higher


@kernel
def shared_prefix_attention_forward(
    Query, Key, Value, KeyCache, ValueCache, Place, Valid, PrefixKey, PrefixValue, PrefixValid, Out,
    candidates, groups, kv_heads, frames, prefix_frames,
    query_row, query_head, query_token, key_row, key_head, key_token, value_row, value_head, value_token,
    G: tl.constexpr, N: tl.constexpr, D: tl.constexpr, R: tl.constexpr, BLOCK_ROWS: tl.constexpr,
    BLOCK_KEYS: tl.constexpr, BLOCK_NEW: tl.constexpr, BLOCK_FRAMES: tl.constexpr, BLOCK_D: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    history, head, tile = (tl.program_id(0) // groups).to(tl.int64), tl.program_id(1).to(tl.int64), tl.program_id(2)
    first = tl.program_id(0) % groups * R
    batch = history * candidates + first  # the row of its first candidate
    present = tl.minimum(candidates - first, R)
    place = tl.load(Place).to(tl.int32)
    dim = tl.arange(0, BLOCK_D)[None, :]
    row = tile * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    mine, query_heads, token = row // (G * N), head * G + row // N % G, (row % N).to(tl.int64)
    asks = (mine < present)[:, None] & (dim < D)
    asked = (batch + mine) * query_row + query_heads * query_head + token * query_token
    query = tl.load(Query + asked[:, None] + dim, mask=asks, other=0.0)

    # Their own tokens, which the first tile of queries also appends; no program reads that frame of the cache.
    cache = (batch * kv_heads + head) * frames * N * D
    between = kv_heads * frames * N  # keys from one candidate to the next
    new = tl.arange(0, BLOCK_NEW)
    new_whose, new_token = (new // N).to(tl.int64), (new % N).to(tl.int64)
    is_new = (new_whose < present)[:, None] & (dim < D)
    given = (batch + new_whose) * key_row + head * key_head + new_token * key_token
    new_key = tl.load(Key + given[:, None] + dim, mask=is_new, other=0.0)
    given = (batch + new_whose) * value_row + head * value_head + new_token * value_token
    new_value = tl.load(Value + given[:, None] + dim, mask=is_new, other=0.0)
    slot = cache + (new_whose * between + place * N + new_token)[:, None] * D + dim
    tl.store(KeyCache + slot, new_key, mask=is_new & (tile == 0))
    tl.store(ValueCache + slot, new_value, mask=is_new & (tile == 0))
    highest = tl.full([BLOCK_ROWS], -1e30, ACC)
    total = tl.zeros([BLOCK_ROWS], ACC)
    averages = tl.zeros([BLOCK_ROWS, BLOCK_D], ACC)
    seen_new = mine[:, None] == new_whose[None, :]
    averages, total, highest = _accumulate(query, new_key, new_value, seen_new, averages, total, highest, PRECISION)

    # The history.
    prefix = (history * kv_heads + head) * prefix_frames * N * D
    past = prefix_frames * N
    for start in range(0, past, BLOCK_KEYS):
        n = start + tl.arange(0, BLOCK_KEYS)
        seen = tl.load(PrefixValid + history * prefix_frames + n // N, mask=n < past, other=0)
        kept = prefix + n[:, None] * D + dim
        key = tl.load(PrefixKey + kept, mask=seen[:, None] & (dim < D), other=0.0)
        value = tl.load(PrefixValue + kept, mask=seen[:, None] & (dim < D), other=0.0)
        averages, total, highest = _accumulate(query, key, value, seen[None, :], averages, total, highest, PRECISION)

    # Own frames, up to the last that may be seen: a plan's first steps have few.
    frame = tl.arange(0, BLOCK_FRAMES)
    valid = tl.load(Valid + frame, mask=frame < frames, other=0) & (frame != place)
    own = tl.max(tl.where(valid, frame + 1, 0), 0) * (R * N)
    for start in range(0, own, BLOCK_KEYS):
        n = start + tl.arange(0, BLOCK_KEYS)
        which, whose = n // (R * N), n // N % R
        seen = tl.load(Valid + which, mask=n < own, other=0) & (which != place) & (whose < present)
        kept = cache + (whose.to(tl.int64) * between + which * N + n % N)[:, None] * D + dim
        key = tl.load(KeyCache + kept, mask=seen[:, None] & (dim < D), other=0.0)
        value = tl.load(ValueCache + kept, mask=seen[:, None] & (dim < D), other=0.0)
        seen_own = seen[None, :] & (mine[:, None] == whose[None, :])
        averages, total, highest = _accumulate(query, key, value, seen_own, averages, total, highest, PRECISION)

    out = ((batch + mine) * N + token) * kv_heads * G * D + query_heads * D
    averages = averages / total[:, None]
    tl.store(Out + out[:, None] + dim, averages.to(Out.dtype.element_ty), mask=asks)


def sharing(queries: int, dim: int, config: dict) -> tuple[int, int]:
    """Candidates of a program and its rows, for `queries` of one candidate and key head of dimension `dim`.

    They don't depend on how many candidates there are, so neither do a candidate's numbers."""
    rows, most = config["rows"], config["most_rows"] * 64 // max(block_size(dim), 64)
    while rows < SHARING * queries and rows < most:
        rows *= 2
    return max(1, rows // queries), rows


def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    place: Tensor,
    valid: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    prefix_valid: Tensor,
) -> Tensor:
    config = config_for(CONFIGS, query)
    rows, heads, tokens, dim = query.shape
    (batch, prefix_frames), kv_heads, frames = prefix_valid.shape, key.shape[1], valid.shape[1]
    check_frame(query, key, value, key_cache, value_cache, frames)
    prefix_shape = batch, kv_heads, prefix_frames * tokens, dim
    if len(valid) != 1 or rows % batch or prefix_key.shape != prefix_shape or prefix_value.shape != prefix_shape:
        raise ValueError(
            f"expected valid [1, W] and a prefix [B, {kv_heads}, S * {tokens}, {dim}] with prefix_valid [B, S] for "
            f"{rows} = B * C rows, got {list(valid.shape)}, {list(prefix_key.shape)} and {list(prefix_valid.shape)}"
        )
    query, key, value = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, key, value))
    prefix = (x.contiguous() for x in (prefix_key, prefix_value, prefix_valid))
    attended = empty_like_query(query)
    candidates, queries = rows // batch, heads // kv_heads * tokens
    shared, block = sharing(queries, dim, config)
    groups = -(-candidates // shared)
    shared_prefix_attention_forward.launch(
        (batch * groups, kv_heads, -(-shared * queries // block)),
        *(query, key, value, key_cache, value_cache, place, valid.contiguous(), *prefix, attended),
        *(candidates, groups, kv_heads, frames, prefix_frames),
        *(x.stride(axis) for x in (query, key, value) for axis in range(3)),
        G=heads // kv_heads,
        N=tokens,
        D=dim,
        R=shared,
        BLOCK_ROWS=block,
        BLOCK_KEYS=config["keys"],
        BLOCK_NEW=block_size(shared * tokens),
        BLOCK_FRAMES=1 << (frames - 1).bit_length(),
        BLOCK_D=block_size(dim),
        ACC=accumulator(query.dtype),
        PRECISION=dot_precision(query.dtype),
        num_stages=config["num_stages"],
        **warps(block, query),
    )
    return attended


torch.library.define(
    "worldmodel::shared_prefix_attention",
    "(Tensor query, Tensor key, Tensor value, Tensor(a!) key_cache, Tensor(b!) value_cache, Tensor place, "
    "Tensor valid, Tensor prefix_key, Tensor prefix_value, Tensor prefix_valid) -> Tensor",
)
for _device in ("cuda", "cpu"):
    torch.library.impl("worldmodel::shared_prefix_attention", _device, _forward)


@torch.library.register_fake("worldmodel::shared_prefix_attention")
def _(query, key, value, key_cache, value_cache, place, valid, prefix_key, prefix_value, prefix_valid):
    return empty_like_query(query)
