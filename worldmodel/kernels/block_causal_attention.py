"""Block-causal attention: the tokens of a frame see each other and the frames before, up to a window."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from worldmodel.kernels.dispatch import Backend, accumulator, dot_precision, for_architecture, resolve
from worldmodel.kernels.jit import kernel, part

if TYPE_CHECKING:
    import triton.language as tl

NEVER = -1e9  # the reference's masked score; finite, so that a row with nothing to see gives numbers and not NaN

CONFIGS = {
    80: {
        2: {
            64: {
                "forward": (64, 64, 4, 2),
                "queries": (64, 32, 4, 2),
                "keys": (32, 64, 4, 2),
                "single": (32, 64, 4, 2),
            },
            128: {
                "forward": (64, 64, 8, 2),
                "queries": (64, 64, 8, 2),
                "keys": (64, 64, 8, 2),
                "single": (32, 64, 8, 2),
            },
        },
        4: {
            64: {
                "forward": (64, 32, 8, 2),
                "queries": (64, 32, 8, 2),
                "keys": (16, 64, 8, 2),
                "single": (16, 64, 16, 2),
            },
            128: {
                "forward": (32, 32, 8, 2),
                "queries": (32, 32, 8, 2),
                "keys": (32, 32, 8, 2),
                "single": (16, 32, 8, 2),
            },
        },
    },
    90: {
        2: {
            64: {
                "forward": (64, 64, 4, 2),
                "queries": (64, 64, 4, 2),
                "keys": (64, 64, 4, 2),
                "single": (32, 64, 4, 2),
            },
            128: {
                "forward": (64, 64, 8, 2),
                "queries": (64, 64, 8, 2),
                "keys": (64, 64, 8, 2),
                "single": (32, 64, 8, 2),
            },
        },
        4: {
            64: {
                "forward": (64, 32, 8, 2),
                "queries": (64, 32, 8, 2),
                "keys": (16, 64, 8, 2),
                "single": (16, 64, 16, 2),
            },
            128: {
                "forward": (32, 16, 8, 2),
                "queries": (32, 32, 8, 2),
                "keys": (16, 32, 8, 2),
                "single": (16, 32, 8, 2),
            },
        },
    },
    100: {
        2: {
            64: {
                "forward": (64, 64, 4, 2),
                "queries": (64, 64, 4, 2),
                "keys": (64, 64, 4, 2),
                "single": (32, 64, 4, 2),
            },
            128: {
                "forward": (64, 64, 8, 2),
                "queries": (64, 64, 8, 2),
                "keys": (64, 64, 8, 2),
                "single": (32, 64, 8, 2),
            },
        },
        4: {
            64: {
                "forward": (64, 32, 8, 2),
                "queries": (64, 32, 8, 2),
                "keys": (16, 64, 8, 2),
                "single": (16, 64, 16, 2),
            },
            128: {
                "forward": (32, 16, 8, 2),
                "queries": (32, 32, 8, 2),
                "keys": (16, 32, 8, 2),
                "single": (16, 32, 8, 2),
            },
        },
    },
}
"""Rows, keys, warps and stages of a program, by bytes of a number and head dim up to which, such that no register spills:
forward, gradient of the queries, gradient of the keys, and all gradients where one tile has all keys. Tiles of 64 x 64
compute 1.1 times the pairs that are seen among 512 tokens, 16 a frame; float32 has no tensor cores, only registers."""


def block_causal_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tokens: int,
    window: int | None = None,
    valid: Tensor | None = None,
    backend: Backend | None = None,
) -> Tensor:
    """Grouped-query attention of the last frames of a sequence: a token of frame f sees all tokens of the frames
    f - window + 1 .. f.

    Args:
        query: `[B, heads, Q, d]`, scaled already; head `k * G + g` reads key head `k`, and Q is the last of M positions.
        key, value: `[B, kv_heads, M, d]`; like the query's, their strides may be any, but the last should be 1.
        tokens: of one frame; Q and M are multiples of it.
        window: frames that one token sees, all up to its own when None.
        valid: `[B, M / tokens]` bool, frames that may be seen; all when None.
        backend: see `worldmodel.kernels.choose`.

    Returns:
        `[B, heads, Q, d]`, with the heads of one position side by side in memory; where nothing may be seen, finite and
        of no meaning.
    """
    if resolve(value, backend) == "torch":
        return block_causal_reference(query, key, value, tokens, window, valid)
    # Autocast leaves rotated queries and keys in float32, to be rounded by the product.
    query, key = query.to(value.dtype), key.to(value.dtype)
    return torch.ops.worldmodel.block_causal_attention(query, key, value, tokens, window, valid)[0]


def block_causal_reference(
    query: Tensor, key: Tensor, value: Tensor, tokens: int, window: int | None = None, valid: Tensor | None = None
) -> Tensor:
    """The same in plain torch, as matmul, softmax, matmul: on CPU several times faster than
    `scaled_dot_product_attention` at a world model's lengths, backward included."""
    batch, heads, queries, dim = query.shape
    kv_heads, keys = key.shape[1:3]
    groups = heads // kv_heads
    time = torch.arange(keys // tokens, device=query.device)
    age = time[(keys - queries) // tokens :, None] - time
    mask = torch.where((age >= 0) if window is None else (age >= 0) & (age < window), 0.0, NEVER)
    mask = mask.repeat_interleave(tokens, 0).repeat_interleave(tokens, 1)[None, None]
    if valid is not None:
        unseen = torch.where(valid, 0.0, NEVER)
        mask = mask + (unseen if tokens == 1 else unseen.repeat_interleave(tokens, 1))[:, None, None]
    scores = query.reshape(batch, kv_heads, groups * queries, dim) @ key.transpose(-1, -2)
    weights = (scores + mask.repeat(1, 1, groups, 1)).softmax(-1)
    return (weights.to(value.dtype) @ value).reshape(batch, heads, queries, dim)


# Flash attention (Dao 2023) over rows: the G heads that share a key head are the rows of one matrix, in the order of
# their tokens, so that row r is of token r // G and a frame is G * tokens rows. Keys are read once for all of them.


@part
def _load(X, offset, inside, D, BLOCK_D, PARTLY):
    """The vectors at `offset [BLOCK]`, as `[BLOCK, BLOCK_D]`; zeros where not `inside` and past `D`."""
    column = tl.arange(0, BLOCK_D)[None, :]
    if PARTLY:
        return tl.load(X + offset[:, None] + column, mask=inside[:, None] & (column < D), other=0.0)
    return tl.load(X + offset[:, None] + column, mask=column < D, other=0.0)


@part
def _store(X, offset, inside, x, D, BLOCK_D):
    column = tl.arange(0, BLOCK_D)[None, :]
    tl.store(X + offset[:, None] + column, x.to(X.dtype.element_ty), mask=inside[:, None] & (column < D))


@part
def _program(tiles, KV_HEADS):
    """This program's tile of a sequence, its batch row and its key head."""
    place = tl.program_id(0) // tiles
    return tl.program_id(0) % tiles, (place // KV_HEADS).to(tl.int64), (place % KV_HEADS).to(tl.int64)


@part
def _rows(tile, GROUPS, BLOCK):
    """Of the tile's rows: their number, their token, and their head among those of the key head."""
    row = tile * BLOCK + tl.arange(0, BLOCK)
    return row, (row // GROUPS).to(tl.int64), row % GROUPS


@part
def _tiles(seen_from, seen_to, whole_from, whole_to, size, count, BLOCK):
    """Which tiles of `BLOCK` of `count` positions, `size` a frame, to visit when the frames seen_from .. seen_to are seen
    at all, and whole_from .. whole_to wholly: first, end, and the first and end of those among them that need no mask."""
    first = tl.maximum(seen_from, 0) * size // BLOCK
    end = tl.cdiv(tl.minimum(tl.maximum(seen_to + 1, 0) * size, count), BLOCK)
    whole = tl.minimum(tl.cdiv(tl.maximum(whole_from, 0) * size, BLOCK), end)
    whole_end = tl.minimum(tl.maximum(whole_to + 1, 0) * size, count) // BLOCK
    return first, end, whole, tl.maximum(whole_end, whole)


@part
def _key_tiles(tile, queries, keys, window, GROUPS, TOKENS, BLOCK_ROWS, BLOCK_KEYS):
    """`_tiles` of the keys that a tile of rows sees."""
    earlier = (keys - queries) // TOKENS
    oldest = earlier + tile * BLOCK_ROWS // (GROUPS * TOKENS)
    newest = earlier + (tl.minimum((tile + 1) * BLOCK_ROWS, queries * GROUPS) - 1) // (GROUPS * TOKENS)
    return _tiles(oldest - window + 1, newest, newest - window + 1, oldest, TOKENS, keys, BLOCK_KEYS)


@part
def _scores(left, right, row_frame, key_frame, Valid, frames, window, PRECISION, ACC, PARTLY):
    """In base 2, -inf where not to be seen. The frames lie as rows and keys do: `[BLOCK, 1]` and `[1, BLOCK]`."""
    scores = tl.dot(left, tl.trans(right), input_precision=PRECISION, out_dtype=ACC) * 1.4426950408889634  # log2(e)
    if PARTLY:
        age = row_frame - key_frame
        scores = tl.where((age >= 0) & (age < window), scores, float("-inf"))
    if Valid is not None:
        seen = tl.load(Valid + key_frame, mask=key_frame < frames, other=0)
        scores = tl.where(seen, scores, float("-inf"))
    return scores


@kernel
def block_causal_forward(
    Query, Key, Value, Valid, Attended, LogSumExp, query_stride, key_stride, value_stride, queries, keys, window,
    KV_HEADS: tl.constexpr, GROUPS: tl.constexpr, TOKENS: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    rows, frames = queries * GROUPS, keys // TOKENS
    tiles = tl.cdiv(rows, BLOCK_ROWS)
    tile, batch, kv_head = _program(tiles, KV_HEADS)
    tile = tiles - 1 - tile  # the last rows see most: they begin first
    row, token, head = _rows(tile, GROUPS, BLOCK_ROWS)
    Query += batch * query_stride[0] + kv_head * GROUPS * query_stride[1]
    Key += batch * key_stride[0] + kv_head * key_stride[1]
    Value += batch * value_stride[0] + kv_head * value_stride[1]
    Attended += (batch * queries * KV_HEADS + kv_head) * GROUPS * D
    LogSumExp += (batch * KV_HEADS + kv_head) * rows
    if Valid is not None:
        Valid += batch * frames
    q = _load(Query, token * query_stride[2] + head * query_stride[1], row < rows, D, BLOCK_D, True)

    first, end, whole, whole_end = _key_tiles(tile, queries, keys, window, GROUPS, TOKENS, BLOCK_ROWS, BLOCK_KEYS)
    row_frame = ((keys - queries + row // GROUPS) // TOKENS)[:, None]
    attended = tl.zeros([BLOCK_ROWS, BLOCK_D], ACC)
    total = tl.zeros([BLOCK_ROWS], ACC)
    highest = tl.full([BLOCK_ROWS], -1e30, ACC)  # above a masked score: where all are, weights are 0
    for PARTLY in tl.static_range(0, 2):
        skipped = (whole_end - whole) * PARTLY
        start = first if PARTLY else whole
        for index in range(start, end - skipped if PARTLY else whole_end):
            key_place = (index + tl.where(index >= whole, skipped, 0)) * BLOCK_KEYS + tl.arange(0, BLOCK_KEYS)
            key_frame = (key_place // TOKENS)[None, :]
            k = _load(Key, key_place.to(tl.int64) * key_stride[2], key_place < keys, D, BLOCK_D, PARTLY)
            scores = _scores(q, k, row_frame, key_frame, Valid, frames, window, PRECISION, ACC, PARTLY)
            now_highest = tl.maximum(highest, tl.max(scores, 1))
            weights = tl.exp2(scores - now_highest[:, None])
            fading = tl.exp2(highest - now_highest)
            total = total * fading + tl.sum(weights, 1)
            v = _load(Value, key_place.to(tl.int64) * value_stride[2], key_place < keys, D, BLOCK_D, PARTLY)
            attended = attended * fading[:, None]
            attended = tl.dot(weights.to(v.dtype), v, attended, input_precision=PRECISION, out_dtype=ACC)
            highest = now_highest
    total = tl.where(total > 0, total, 1.0)
    _store(Attended, (token * KV_HEADS * GROUPS + head) * D, row < rows, attended / total[:, None], D, BLOCK_D)
    tl.store(LogSumExp + row, highest + tl.log2(total), mask=row < rows)


@kernel
def block_causal_query_gradient(
    Query, Key, Value, Valid, Attended, LogSumExp, Gradient, QueryGradient, Delta,
    query_stride, key_stride, value_stride, gradient_stride, queries, keys, window,
    KV_HEADS: tl.constexpr, GROUPS: tl.constexpr, TOKENS: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """And `Delta`, the sum of each row's output times its gradient, for the gradient of the keys."""
    rows, frames = queries * GROUPS, keys // TOKENS
    tiles = tl.cdiv(rows, BLOCK_ROWS)
    tile, batch, kv_head = _program(tiles, KV_HEADS)
    tile = tiles - 1 - tile
    row, token, head = _rows(tile, GROUPS, BLOCK_ROWS)
    Query += batch * query_stride[0] + kv_head * GROUPS * query_stride[1]
    Key += batch * key_stride[0] + kv_head * key_stride[1]
    Value += batch * value_stride[0] + kv_head * value_stride[1]
    Gradient += batch * gradient_stride[0] + kv_head * GROUPS * gradient_stride[1]
    if Valid is not None:
        Valid += batch * frames
    out = (batch * queries * KV_HEADS + kv_head) * GROUPS * D + (token * KV_HEADS * GROUPS + head) * D
    out_row = (batch * KV_HEADS + kv_head) * rows + row
    q = _load(Query, token * query_stride[2] + head * query_stride[1], row < rows, D, BLOCK_D, True)
    gradient = _load(Gradient, token * gradient_stride[2] + head * gradient_stride[1], row < rows, D, BLOCK_D, True)
    delta = tl.sum(_load(Attended, out, row < rows, D, BLOCK_D, True).to(ACC) * gradient.to(ACC), 1)
    tl.store(Delta + out_row, delta, mask=row < rows)
    log_sum_exp = tl.load(LogSumExp + out_row, mask=row < rows, other=0.0)

    first, end, whole, whole_end = _key_tiles(tile, queries, keys, window, GROUPS, TOKENS, BLOCK_ROWS, BLOCK_KEYS)
    row_frame = ((keys - queries + row // GROUPS) // TOKENS)[:, None]
    query_gradient = tl.zeros([BLOCK_ROWS, BLOCK_D], ACC)
    for PARTLY in tl.static_range(0, 2):
        skipped = (whole_end - whole) * PARTLY
        start = first if PARTLY else whole
        for index in range(start, end - skipped if PARTLY else whole_end):
            key_place = (index + tl.where(index >= whole, skipped, 0)) * BLOCK_KEYS + tl.arange(0, BLOCK_KEYS)
            key_frame = (key_place // TOKENS)[None, :]
            k = _load(Key, key_place.to(tl.int64) * key_stride[2], key_place < keys, D, BLOCK_D, PARTLY)
            v = _load(Value, key_place.to(tl.int64) * value_stride[2], key_place < keys, D, BLOCK_D, PARTLY)
            scores = _scores(q, k, row_frame, key_frame, Valid, frames, window, PRECISION, ACC, PARTLY)
            weights = tl.exp2(scores - log_sum_exp[:, None])
            weights_gradient = tl.dot(gradient, tl.trans(v), input_precision=PRECISION, out_dtype=ACC)
            scores_gradient = (weights * (weights_gradient - delta[:, None])).to(k.dtype)
            query_gradient = tl.dot(scores_gradient, k, query_gradient, input_precision=PRECISION, out_dtype=ACC)
    _store(QueryGradient, out, row < rows, query_gradient, D, BLOCK_D)


@kernel
def block_causal_key_gradient(
    Query, Key, Value, Valid, Attended, LogSumExp, Gradient, QueryGradient, Delta, KeyGradient, ValueGradient,
    query_stride, key_stride, value_stride, gradient_stride, queries, keys, window,
    KV_HEADS: tl.constexpr, GROUPS: tl.constexpr, TOKENS: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr,
    SINGLE: tl.constexpr,
):  # fmt: skip
    """Of keys and values; where a single tile has all keys, of the queries too, for which nothing is then missing."""
    rows, frames = queries * GROUPS, keys // TOKENS
    tile, batch, kv_head = _program(tl.cdiv(keys, BLOCK_KEYS), KV_HEADS)
    key_place = tile * BLOCK_KEYS + tl.arange(0, BLOCK_KEYS)
    Query += batch * query_stride[0] + kv_head * GROUPS * query_stride[1]
    Key += batch * key_stride[0] + kv_head * key_stride[1]
    Value += batch * value_stride[0] + kv_head * value_stride[1]
    Gradient += batch * gradient_stride[0] + kv_head * GROUPS * gradient_stride[1]
    Attended += (batch * queries * KV_HEADS + kv_head) * GROUPS * D
    QueryGradient += (batch * queries * KV_HEADS + kv_head) * GROUPS * D
    LogSumExp += (batch * KV_HEADS + kv_head) * rows
    Delta += (batch * KV_HEADS + kv_head) * rows
    if Valid is not None:
        Valid += batch * frames
    k = _load(Key, key_place.to(tl.int64) * key_stride[2], key_place < keys, D, BLOCK_D, True)
    v = _load(Value, key_place.to(tl.int64) * value_stride[2], key_place < keys, D, BLOCK_D, True)

    earlier = (keys - queries) // TOKENS
    oldest = tile * BLOCK_KEYS // TOKENS - earlier
    newest = ((tile + 1) * BLOCK_KEYS - 1) // TOKENS - earlier
    first, end, whole, whole_end = _tiles(
        oldest, newest + window - 1, newest, oldest + window - 1, GROUPS * TOKENS, rows, BLOCK_ROWS
    )
    key_frame = (key_place // TOKENS)[:, None]
    key_gradient = tl.zeros([BLOCK_KEYS, BLOCK_D], ACC)
    value_gradient = tl.zeros([BLOCK_KEYS, BLOCK_D], ACC)
    for PARTLY in tl.static_range(0, 2):
        skipped = (whole_end - whole) * PARTLY
        start = first if PARTLY else whole
        for index in range(start, end - skipped if PARTLY else whole_end):
            row, token, head = _rows(index + tl.where(index >= whole, skipped, 0), GROUPS, BLOCK_ROWS)
            row_frame = (earlier + row // (GROUPS * TOKENS))[None, :]
            place = token * gradient_stride[2] + head * gradient_stride[1]
            out = (token * KV_HEADS * GROUPS + head) * D
            q = _load(Query, token * query_stride[2] + head * query_stride[1], row < rows, D, BLOCK_D, PARTLY)
            gradient = _load(Gradient, place, row < rows, D, BLOCK_D, PARTLY)
            log_sum_exp = tl.load(LogSumExp + row, mask=row < rows, other=0.0)
            if SINGLE:
                delta = tl.sum(_load(Attended, out, row < rows, D, BLOCK_D, PARTLY).to(ACC) * gradient.to(ACC), 1)
            else:
                delta = tl.load(Delta + row, mask=row < rows, other=0.0)
            scores = _scores(k, q, row_frame, key_frame, Valid, frames, window, PRECISION, ACC, PARTLY)
            weights = tl.exp2(scores - log_sum_exp[None, :])
            rounded = weights.to(gradient.dtype)
            value_gradient = tl.dot(rounded, gradient, value_gradient, input_precision=PRECISION, out_dtype=ACC)
            weights_gradient = tl.dot(v, tl.trans(gradient), input_precision=PRECISION, out_dtype=ACC)
            scores_gradient = (weights * (weights_gradient - delta[None, :])).to(q.dtype)
            key_gradient = tl.dot(scores_gradient, q, key_gradient, input_precision=PRECISION, out_dtype=ACC)
            if SINGLE:
                query_gradient = tl.dot(tl.trans(scores_gradient), k, input_precision=PRECISION, out_dtype=ACC)
                _store(QueryGradient, out, row < rows, query_gradient, D, BLOCK_D)
    out = ((batch * keys + key_place) * KV_HEADS + kv_head) * D
    _store(KeyGradient, out, key_place < keys, key_gradient, D, BLOCK_D)
    _store(ValueGradient, out, key_place < keys, value_gradient, D, BLOCK_D)


def _config(query: Tensor) -> dict[str, tuple[int, ...]]:
    """The entry of `CONFIGS`."""
    table = for_architecture(CONFIGS, query.device)[2 if query.element_size() == 2 else 4]
    return table[64 if query.shape[-1] <= 64 else 128]


def _power_of_two(number: int) -> int:
    """Not below `number`, nor below the 16 that `tl.dot` takes."""
    return max(16, 1 << (number - 1).bit_length())


def _layout(
    query: Tensor, key: Tensor, tokens: int, window: int | None, config: tuple[int, ...], by_keys: bool = False
) -> tuple[tuple[int], tuple[int, ...], dict]:
    """Grid, integers that follow the strides, and constexpr arguments; a sequence is divided by rows or by keys."""
    batch, heads, queries, dim = query.shape
    kv_heads, keys = key.shape[1:3]
    rows, frames = heads // kv_heads * queries, keys // tokens
    block_rows, block_keys = (
        min(most, _power_of_two(count)) for most, count in zip(config, (rows, keys), strict=False)
    )
    count, block, most = (keys, block_keys, config[1]) if by_keys else (rows, block_rows, config[0])
    options = {
        "KV_HEADS": kv_heads,
        "GROUPS": heads // kv_heads,
        "TOKENS": tokens,
        "D": dim,
        "BLOCK_D": _power_of_two(dim),
        "BLOCK_ROWS": block_rows,
        "BLOCK_KEYS": block_keys,
        "PRECISION": dot_precision(query.dtype),
        "ACC": accumulator(query.dtype),
        "num_warps": max(1, config[2] * block // most),
        "num_stages": config[3],
    }
    return (batch * kv_heads * -(-count // block),), (queries, keys, min(window or frames, frames)), options


def _spread(*tensors: Tensor) -> tuple[list[Tensor], list[tuple[int, ...]]]:
    """The tensors with their last dimension contiguous, and the other strides."""
    tensors = [x if x.stride(-1) == 1 else x.contiguous() for x in tensors]
    return tensors, [x.stride()[:3] for x in tensors]


def _like(x: Tensor) -> Tensor:
    """Empty, of the shape `[B, heads, S, d]`, with the heads of one position side by side in memory."""
    return x.new_empty(x.shape[0], x.shape[2], x.shape[1], x.shape[3]).transpose(1, 2)


def _sums(query: Tensor, key: Tensor) -> Tensor:
    """Empty, a number for each row, in the format of sums: `[B, kv_heads, Q * G]`."""
    shape = query.shape[0], key.shape[1], query.shape[1] // key.shape[1] * query.shape[2]
    return query.new_empty(shape, dtype=torch.promote_types(query.dtype, torch.float32))


def _forward(
    query: Tensor, key: Tensor, value: Tensor, tokens: int, window: int | None, valid: Tensor | None
) -> tuple[Tensor, Tensor]:
    outputs = _like(query), _sums(query, key)
    inputs, strides = _spread(query, key, value)
    valid = None if valid is None else valid.contiguous()
    grid, sizes, options = _layout(query, key, tokens, window, _config(query)["forward"])
    block_causal_forward.launch(grid, *inputs, valid, *outputs, *strides, *sizes, **options)
    return outputs


def _backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, attended: Tensor, log_sum_exp: Tensor, tokens: int,
    window: int | None, valid: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    query_gradient, *gradients = (_like(x) for x in (query, key, value))
    (*inputs, gradient), strides = _spread(query, key, value, gradient)
    valid = None if valid is None else valid.contiguous()
    tensors = *inputs, valid, attended, log_sum_exp, gradient, query_gradient, torch.empty_like(log_sum_exp)
    config = _config(query)
    single = key.shape[2] <= config["single"][1]
    if not single:
        grid, sizes, options = _layout(query, key, tokens, window, config["queries"])
        block_causal_query_gradient.launch(grid, *tensors, *strides, *sizes, **options)
    grid, sizes, options = _layout(query, key, tokens, window, config["single" if single else "keys"], by_keys=True)
    block_causal_key_gradient.launch(grid, *tensors, *gradients, *strides, *sizes, **options, SINGLE=single)
    return query_gradient, *gradients


_ARGUMENTS = "int tokens, int? window, Tensor? valid"
_NAME = "worldmodel::block_causal_attention"
torch.library.define(_NAME, f"(Tensor query, Tensor key, Tensor value, {_ARGUMENTS}) -> (Tensor, Tensor)")
torch.library.define(
    f"{_NAME}_backward",
    "(Tensor gradient, Tensor query, Tensor key, Tensor value, Tensor attended, Tensor log_sum_exp, "
    f"{_ARGUMENTS}) -> (Tensor, Tensor, Tensor)",
)
for _device in ("cuda", "cpu"):
    torch.library.impl(_NAME, _device, _forward)
    torch.library.impl(f"{_NAME}_backward", _device, _backward)


@torch.library.register_fake(_NAME)
def _(query, key, value, tokens, window, valid):
    return _like(query), _sums(query, key)


@torch.library.register_fake(f"{_NAME}_backward")
def _(gradient, query, key, value, attended, log_sum_exp, tokens, window, valid):
    return _like(query), _like(key), _like(value)


def _keep(ctx, inputs, output):
    query, key, value, ctx.tokens, ctx.window, valid = inputs
    ctx.save_for_backward(query, key, value, *output, valid)


def _differentiate(ctx, gradient, _):
    *tensors, valid = ctx.saved_tensors
    gradients = torch.ops.worldmodel.block_causal_attention_backward(gradient, *tensors, ctx.tokens, ctx.window, valid)
    return *gradients, None, None, None


torch.library.register_autograd(_NAME, _differentiate, setup_context=_keep)
