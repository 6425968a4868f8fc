"""Attention of one new frame over a ring of frames that were kept, which it joins."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from worldmodel.kernels.attention import attention, score_mask
from worldmodel.kernels.dispatch import Backend, accumulator, dot_precision, for_architecture, resolve
from worldmodel.kernels.jit import kernel, part

if TYPE_CHECKING:
    import triton.language as tl

CONFIGS = {
    80: {"half": {"rows": 128, "keys": 32, "num_stages": 2}, "single": {"rows": 128, "keys": 32, "num_stages": 2}},
    90: {"half": {"rows": 128, "keys": 32, "num_stages": 3}, "single": {"rows": 128, "keys": 32, "num_stages": 2}},
    100: {"half": {"rows": 128, "keys": 32, "num_stages": 3}, "single": {"rows": 128, "keys": 16, "num_stages": 2}},
}
"""Of the formats of two bytes, which tensor cores multiply, and of four, which they don't: at most so many queries of a
key head in a program, and keys that it reads at once."""


def decode_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    place: Tensor,
    valid: Tensor,
    backend: Backend | None = None,
) -> Tensor:
    """Grouped-query attention of a new frame of N tokens over a ring of W frames, itself included. Its keys and values
    are written into the ring.

    Nothing here waits for the device, so that a step can be recorded as a CUDA graph and replayed. It has no gradient.

    Args:
        query: `[R, G * K, N, d]`, scaled already; head `k * G + g` reads key head `k`.
        key, value: `[R, K, N, d]`, of the new frame.
        key_cache, value_cache: `[R, K, W * N, d]`, contiguous, changed in place.
        place: which of the W frames becomes the new one, int64 of no dimensions, on the device.
        valid: `[1 or R, W]` bool, frames that may be seen; the new one is seen whatever it says.
        backend: see `worldmodel.kernels.choose`.

    Returns:
        `[R, G * K, N, d]`.

    Raises:
        RuntimeError: a gradient is needed, and `backend` is a kernel; `auto` takes plain torch then.
    """
    if resolve_without_gradient((query, key, value, key_cache, value_cache), backend) == "torch":
        return decode_reference(query, key, value, key_cache, value_cache, place, valid)
    return torch.ops.worldmodel.decode_attention(query, key, value, key_cache, value_cache, place, valid)


def decode_reference(
    query: Tensor, key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, place: Tensor, valid: Tensor
) -> Tensor:
    """The same in plain torch."""
    append(key_cache, key, place)
    append(value_cache, value, place)
    mask = score_mask(with_new_frame(valid, place), key.shape[2], query.dtype)
    return attention(query, key_cache, value_cache, mask[:, None, None])


def append(cache: Tensor, new: Tensor, place: Tensor) -> None:
    """Write `new [R, K, N, d]` into frame `place` of `cache [R, K, W * N, d]`."""
    tokens = new.shape[2]
    cache.index_copy_(2, place * tokens + torch.arange(tokens, device=place.device), new)


def with_new_frame(valid: Tensor, place: Tensor) -> Tensor:
    """`valid [R, W]` with frame `place` among those that may be seen."""
    return valid | (torch.arange(valid.shape[1], device=valid.device) == place)


def resolve_without_gradient(tensors: tuple[Tensor, ...], backend: Backend | None) -> Backend:
    """`resolve` for an operation on `tensors` whose kernel has no backward.

    Raises:
        RuntimeError: one of them needs a gradient, and a kernel was chosen explicitly.
    """
    needed = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    resolved = resolve(tensors[0], backend, not needed)
    if needed and resolved != "torch":
        raise RuntimeError(
            f"kernels={resolved} has no gradient for attention over a cache that is written in place: "
            "call it under torch.no_grad(), or use kernels=auto"
        )
    return resolved


# A program has the queries of one row and key head, G heads x N tokens, and goes through the keys with a running
# maximum and sum of the softmax (Milakov and Gimelshein 2018). The new frame comes first, from registers: every query
# sees it, so the maximum is a number from then on, and what is masked weighs exactly nothing.


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
def decode_attention_forward(
    Query, Key, Value, KeyCache, ValueCache, Place, Valid, Out, kv_heads, frames, valid_row,
    query_row, query_head, query_token, key_row, key_head, key_token, value_row, value_head, value_token,
    G: tl.constexpr, N: tl.constexpr, D: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr,
    BLOCK_NEW: tl.constexpr, BLOCK_FRAMES: tl.constexpr, BLOCK_D: tl.constexpr, ACC: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    batch, head, tile = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64), tl.program_id(2)
    place = tl.load(Place).to(tl.int32)
    dim = tl.arange(0, BLOCK_D)[None, :]
    row = tile * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    query_heads, token = head * G + row // N, (row % N).to(tl.int64)
    asks = (row < G * N)[:, None] & (dim < D)
    asked = batch * query_row + query_heads * query_head + token * query_token
    query = tl.load(Query + asked[:, None] + dim, mask=asks, other=0.0)

    # Its own tokens, which the first tile of queries also appends; no program reads that frame of the cache.
    cache = (batch * kv_heads + head) * frames * N * D
    new = tl.arange(0, BLOCK_NEW)[:, None].to(tl.int64)
    is_new = (new < N) & (dim < D)
    new_key = tl.load(Key + batch * key_row + head * key_head + new * key_token + dim, mask=is_new, other=0.0)
    new_value = tl.load(Value + batch * value_row + head * value_head + new * value_token + dim, mask=is_new, other=0.0)
    slot = cache + (place * N + new) * D + dim
    tl.store(KeyCache + slot, new_key, mask=is_new & (tile == 0))
    tl.store(ValueCache + slot, new_value, mask=is_new & (tile == 0))
    highest = tl.full([BLOCK_ROWS], -1e30, ACC)
    total = tl.zeros([BLOCK_ROWS], ACC)
    averages = tl.zeros([BLOCK_ROWS, BLOCK_D], ACC)
    seen_new = (tl.arange(0, BLOCK_NEW) < N)[None, :]
    averages, total, highest = _accumulate(query, new_key, new_value, seen_new, averages, total, highest, PRECISION)

    # The ring, up to the last frame that may be seen: early in an episode it is almost empty.
    frame = tl.arange(0, BLOCK_FRAMES)
    valid = tl.load(Valid + batch * valid_row + frame, mask=frame < frames, other=0) & (frame != place)
    length = tl.max(tl.where(valid, frame + 1, 0), 0) * N
    for start in range(0, length, BLOCK_KEYS):
        n = start + tl.arange(0, BLOCK_KEYS)
        seen = tl.load(Valid + batch * valid_row + n // N, mask=n < length, other=0) & (n // N != place)
        kept = cache + n[:, None] * D + dim
        key = tl.load(KeyCache + kept, mask=seen[:, None] & (dim < D), other=0.0)
        value = tl.load(ValueCache + kept, mask=seen[:, None] & (dim < D), other=0.0)
        averages, total, highest = _accumulate(query, key, value, seen[None, :], averages, total, highest, PRECISION)

    out = ((batch * N + token) * kv_heads * G + query_heads) * D
    averages = averages / total[:, None]
    tl.store(Out + out[:, None] + dim, averages.to(Out.dtype.element_ty), mask=asks)


def _forward(
    query: Tensor, key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, place: Tensor, valid: Tensor
) -> Tensor:
    config = config_for(CONFIGS, query)
    rows, heads, tokens, dim = query.shape
    kv_heads, frames = key.shape[1], valid.shape[1]
    check_frame(query, key, value, key_cache, value_cache, frames)
    if len(valid) not in (1, rows):
        raise ValueError(f"expected valid [1 or {rows}, W], got {list(valid.shape)}")
    query, key, value = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, key, value))
    valid = valid.contiguous()
    attended = empty_like_query(query)
    queries = heads // kv_heads * tokens
    block = min(config["rows"], block_size(queries))
    decode_attention_forward.launch(
        (rows, kv_heads, -(-queries // block)),
        *(query, key, value, key_cache, value_cache, place, valid, attended),
        *(kv_heads, frames, valid.stride(0) if len(valid) > 1 else 0),
        *(x.stride(axis) for x in (query, key, value) for axis in range(3)),
        G=heads // kv_heads,
        N=tokens,
        D=dim,
        BLOCK_ROWS=block,
        BLOCK_KEYS=min(config["keys"], block_size(frames * tokens)),
        BLOCK_NEW=block_size(tokens),
        BLOCK_FRAMES=1 << (frames - 1).bit_length(),
        BLOCK_D=block_size(dim),
        ACC=accumulator(query.dtype),
        PRECISION=dot_precision(query.dtype),
        num_stages=config["num_stages"],
        **warps(block, query),
    )
    return attended


def block_size(length: int) -> int:
    """The power of two that holds `length`, and no less than the 16 that a product of matrices takes."""
    return max(16, 1 << (length - 1).bit_length())


def config_for(table: dict, query: Tensor) -> dict:
    """The entry for the query's device and format."""
    return for_architecture(table, query.device)["half" if query.element_size() == 2 else "single"]


def warps(rows: int, query: Tensor) -> dict:
    """Launch options of a program with so many queries.

    A tensor core's instruction has 16 rows: with no fewer in a warp, a row's softmax stays inside it. Without tensor
    cores a thread's share has to be smaller; then 16 warps of 128 registers fill a multiprocessor, and without that
    bound the assembler spills for the sake of more programs than fit."""
    if query.element_size() == 2:
        return {"num_warps": min(max(rows // 16, 2), 8)}
    return {"num_warps": min(rows // 4, 16), "maxnreg": 128}


def check_frame(query: Tensor, key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, frames: int) -> None:
    """Raise ValueError unless a new frame and contiguous rings of `frames` frames fit each other."""
    rows, kv_heads, tokens, dim = key.shape
    if value.shape != key.shape or query.shape != (rows, query.shape[1] // kv_heads * kv_heads, tokens, dim):
        raise ValueError(
            "expected query [R, G * K, N, d], key and value [R, K, N, d], "
            f"got {list(query.shape)}, {list(key.shape)} and {list(value.shape)}"
        )
    ring = rows, kv_heads, frames * tokens, dim
    for cache in (key_cache, value_cache):
        if cache.shape != ring or cache.dtype != query.dtype or not cache.is_contiguous():
            raise ValueError(
                f"expected contiguous {query.dtype} caches {list(ring)} for new frames {list(key.shape)}, "
                f"got {cache.dtype} {list(cache.shape)} with strides {cache.stride()}"
            )


def empty_like_query(query: Tensor) -> Tensor:
    """For what is attended, like `query`: heads side by side in memory, so that joining them copies nothing."""
    rows, heads, tokens, dim = query.shape
    return query.new_empty(rows, tokens, heads, dim).transpose(1, 2)


torch.library.define(
    "worldmodel::decode_attention",
    "(Tensor query, Tensor key, Tensor value, Tensor(a!) key_cache, Tensor(b!) value_cache, Tensor place, Tensor valid)"
    " -> Tensor",
)
for _device in ("cuda", "cpu"):
    torch.library.impl("worldmodel::decode_attention", _device, _forward)


@torch.library.register_fake("worldmodel::decode_attention")
def _(query, key, value, key_cache, value_cache, place, valid):
    return empty_like_query(query)
