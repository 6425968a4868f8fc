"""Block-causal attention: the tokens of a frame see each other and the frames before, up to a window."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from worldmodel.kernels.attention import attention, score_mask
from worldmodel.kernels.dispatch import Backend, accumulator, dot_precision, for_architecture, resolve
from worldmodel.kernels.jit import kernel, part

if TYPE_CHECKING:
    import triton.language as tl

WIDEST = 128  # numbers of a head: more do not fit into the registers
REGISTERS = 65536  # of a multiprocessor, on all architectures from Volta on
FORWARD, QUERIES, KEYS, SINGLE = range(4)
_CONFIGS = {
    (2, 64): ((64, 64, 4, 3), (64, 64, 4, 3), (64, 64, 4, 2), (32, 64, 4, 2)),
    (2, 128): ((64, 64, 8, 1), (64, 64, 8, 1), (64, 64, 8, 1), (16, 64, 8, 1)),
    (4, 64): ((64, 32, 8, 1), (64, 32, 8, 1), (16, 64, 8, 1), (16, 64, 16, 1)),
    (4, 128): ((32, 16, 8, 1), (32, 32, 8, 1), (16, 32, 8, 1), (16, 32, 8, 1)),
}
_CONFIGS_80 = {**_CONFIGS, (2, 64): ((64, 32, 4, 2), (64, 32, 4, 2), (32, 64, 4, 2), (32, 64, 4, 2))}
CONFIGS = {80: _CONFIGS_80, 90: _CONFIGS, 100: _CONFIGS}
"""By bytes of a number and the most numbers of a head: rows, keys and warps of a program, and the programs that share a
multiprocessor's registers, for the forward, the gradients of the queries, those of the keys, and all gradients where a
single tile has all keys. Larger tiles would not fit into the registers, and tiles of 64 rows compute no more than 1.1
times the pairs that are seen among 512 tokens, 16 a frame."""


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
        query: `[B, heads, Q, d]`, scaled already, of the last Q of M positions; head `k * G + g` reads key head `k`.
        key, value: `[B, kv_heads, M, d]`; like the query's, their strides may be any, but the last should be 1.
        tokens: of one frame; Q and M are multiples of it.
        window: frames that one token sees, all up to its own when None.
        valid: `[1 or B, M / tokens]` bool, frames that may be seen; all when None.
        backend: see `worldmodel.kernels.choose`.

    Returns:
        `[B, heads, Q, d]`, with the heads of one position side by side in memory; where nothing may be seen, finite and
        of no meaning.

    Raises:
        ValueError: the shapes do not go together; or a kernel was chosen explicitly, and heads are too wide for it
            (`auto` takes plain torch then).
    """
    (_, heads, queries, dim), (_, kv_heads, keys, _) = query.shape, key.shape
    if heads % kv_heads or queries % tokens or keys % tokens or queries > keys:
        raise ValueError(f"queries {list(query.shape)} and keys {list(key.shape)} do not fit {tokens} tokens a frame")
    if resolve(value, backend, dim <= WIDEST) == "torch":
        return block_causal_reference(query, key, value, tokens, window, valid)
    # Autocast leaves rotated queries and keys in float32, to be rounded by the product.
    query, key = query.to(value.dtype), key.to(value.dtype)
    return torch.ops.worldmodel.block_causal_attention(query, key, value, tokens, window, valid)[0]


def block_causal_reference(
    query: Tensor, key: Tensor, value: Tensor, tokens: int, window: int | None = None, valid: Tensor | None = None
) -> Tensor:
    """The same in plain torch."""
    queries, keys = query.shape[2], key.shape[2]
    time = torch.arange(keys // tokens, device=query.device)
    age = time[(keys - queries) // tokens :, None] - time
    seen = age >= 0 if window is None else (age >= 0) & (age < window)
    mask = score_mask(seen.repeat_interleave(tokens, 0), tokens, query.dtype)[None, None]
    if valid is not None:
        mask = mask + score_mask(valid, tokens, query.dtype)[:, None, None]
    return attention(query, key, value, mask)


# Flash attention (Dao 2023) over rows: the G heads that share a key head are the rows of one matrix, in the order of
# their tokens, so that row r is of token r // G and a frame is G * tokens rows. Keys are read once for all of them.


@part
def _load(X, stride, batch, head, token, inside, D, BLOCK_D, PARTLY):
    """The vectors `[BLOCK, BLOCK_D]` of `token [BLOCK]` and of `head`, one or `[BLOCK]`; zeros where not `inside`."""
    column = tl.arange(0, BLOCK_D)[None, :]
    place = (token.to(tl.int64) * stride[2] + head * stride[1])[:, None] + column
    if PARTLY:
        return tl.load(X + batch * stride[0] + place, mask=inside[:, None] & (column < D), other=0.0)
    return tl.load(X + batch * stride[0] + place, mask=column < D, other=0.0)


@part
def _store(X, stride, batch, head, token, inside, x, D, BLOCK_D):
    column = tl.arange(0, BLOCK_D)[None, :]
    place = (token.to(tl.int64) * stride[2] + head * stride[1])[:, None] + column
    tl.store(X + batch * stride[0] + place, x.to(X.dtype.element_ty), mask=inside[:, None] & (column < D))


@part
def _program(tiles, KV_HEADS):
    """This program's tile of a sequence, its batch row and its key head."""
    place = tl.program_id(0) // tiles
    return tl.program_id(0) % tiles, (place // KV_HEADS).to(tl.int64), (place % KV_HEADS).to(tl.int64)


@part
def _rows(tile, kv_head, GROUPS, BLOCK):
    """Of the tile's rows: their number, token and head."""
    row = tile * BLOCK + tl.arange(0, BLOCK)
    return row, row // GROUPS, kv_head * GROUPS + row % GROUPS


@part
def _tiles(seen_from, seen_to, whole_from, whole_to, size, count, BLOCK):
    """Which tiles of `BLOCK` of `count` positions, `size` a frame, to visit when the frames seen_from .. seen_to are
    seen at all, and whole_from .. whole_to wholly: first, end, and first and end of those that need no mask."""
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
def _scores(left, right, row_frame, key_frame, Valid, batch, frames, window, PRECISION, ACC, PARTLY):
    """In base 2, -inf where not to be seen. The frames lie as rows and keys do: `[BLOCK, 1]` and `[1, BLOCK]`."""
    scores = tl.dot(left, tl.trans(right), input_precision=PRECISION, out_dtype=ACC) * 1.4426950408889634  # log2(e)
    if PARTLY:
        age = row_frame - key_frame
        scores = tl.where((age >= 0) & (age < window), scores, float("-inf"))
    if Valid is not None:
        seen = tl.load(Valid + batch * frames + key_frame, mask=key_frame < frames, other=0)
        scores = tl.where(seen, scores, float("-inf"))
    return scores


@kernel
def block_causal_forward(
    Query, Key, Value, Valid, Attended, LogSumExp, query_stride, key_stride, value_stride, out_stride,
    queries, keys, window,
    KV_HEADS: tl.constexpr, GROUPS: tl.constexpr, TOKENS: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    rows, frames = queries * GROUPS, keys // TOKENS
    tile, batch, kv_head = _program(tl.cdiv(rows, BLOCK_ROWS), KV_HEADS)
    tile = tl.cdiv(rows, BLOCK_ROWS) - 1 - tile  # the last rows see most: they begin first
    row, token, head = _rows(tile, kv_head, GROUPS, BLOCK_ROWS)
    q = _load(Query, query_stride, batch, head, token, row < rows, D, BLOCK_D, True)
    row_frame = ((keys - queries + token) // TOKENS)[:, None]
    first, end, whole, whole_end = _key_tiles(tile, queries, keys, window, GROUPS, TOKENS, BLOCK_ROWS, BLOCK_KEYS)
    attended = tl.zeros([BLOCK_ROWS, BLOCK_D], ACC)
    total = tl.zeros([BLOCK_ROWS], ACC)
    highest = tl.full([BLOCK_ROWS], -1e30, ACC)  # above a masked score: where all are, weights are 0
    for PARTLY in tl.static_range(0, 2):
        skipped = (whole_end - whole) * PARTLY
        for index in range(first if PARTLY else whole, end - skipped if PARTLY else whole_end):
            key_place = (index + tl.where(index >= whole, skipped, 0)) * BLOCK_KEYS + tl.arange(0, BLOCK_KEYS)
            key_frame = (key_place // TOKENS)[None, :]
            k = _load(Key, key_stride, batch, kv_head, key_place, key_place < keys, D, BLOCK_D, PARTLY)
            scores = _scores(q, k, row_frame, key_frame, Valid, batch, frames, window, PRECISION, ACC, PARTLY)
            now_highest = tl.maximum(highest, tl.max(scores, 1))
            weights = tl.exp2(scores - now_highest[:, None])
            fading = tl.exp2(highest - now_highest)
            total = total * fading + tl.sum(weights, 1)
            v = _load(Value, value_stride, batch, kv_head, key_place, key_place < keys, D, BLOCK_D, PARTLY)
            attended = attended * fading[:, None]
            attended = tl.dot(weights.to(v.dtype), v, attended, input_precision=PRECISION, out_dtype=ACC)
            highest = now_highest
    total = tl.where(total > 0, total, 1.0)
    _store(Attended, out_stride, batch, head, token, row < rows, attended / total[:, None], D, BLOCK_D)
    tl.store(LogSumExp + (batch * KV_HEADS + kv_head) * rows + row, highest + tl.log2(total), mask=row < rows)


@kernel
def block_causal_query_gradient(
    Query, Key, Value, Valid, Attended, LogSumExp, Gradient, QueryGradient, Delta,
    query_stride, key_stride, value_stride, attended_stride, gradient_stride, out_stride, queries, keys, window,
    KV_HEADS: tl.constexpr, GROUPS: tl.constexpr, TOKENS: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """And `Delta`, the sum of each row's output times its gradient, for the gradient of the keys."""
    rows, frames = queries * GROUPS, keys // TOKENS
    tile, batch, kv_head = _program(tl.cdiv(rows, BLOCK_ROWS), KV_HEADS)
    tile = tl.cdiv(rows, BLOCK_ROWS) - 1 - tile
    row, token, head = _rows(tile, kv_head, GROUPS, BLOCK_ROWS)
    out_row = (batch * KV_HEADS + kv_head) * rows + row
    q = _load(Query, query_stride, batch, head, token, row < rows, D, BLOCK_D, True)
    gradient = _load(Gradient, gradient_stride, batch, head, token, row < rows, D, BLOCK_D, True)
    attended = _load(Attended, attended_stride, batch, head, token, row < rows, D, BLOCK_D, True)
    delta = tl.sum(attended.to(ACC) * gradient.to(ACC), 1)
    tl.store(Delta + out_row, delta, mask=row < rows)
    log_sum_exp = tl.load(LogSumExp + out_row, mask=row < rows, other=0.0)
    row_frame = ((keys - queries + token) // TOKENS)[:, None]
    first, end, whole, whole_end = _key_tiles(tile, queries, keys, window, GROUPS, TOKENS, BLOCK_ROWS, BLOCK_KEYS)
    query_gradient = tl.zeros([BLOCK_ROWS, BLOCK_D], ACC)
    for PARTLY in tl.static_range(0, 2):
        skipped = (whole_end - whole) * PARTLY
        for index in range(first if PARTLY else whole, end - skipped if PARTLY else whole_end):
            key_place = (index + tl.where(index >= whole, skipped, 0)) * BLOCK_KEYS + tl.arange(0, BLOCK_KEYS)
            key_frame = (key_place // TOKENS)[None, :]
            k = _load(Key, key_stride, batch, kv_head, key_place, key_place < keys, D, BLOCK_D, PARTLY)
            v = _load(Value, value_stride, batch, kv_head, key_place, key_place < keys, D, BLOCK_D, PARTLY)
            scores = _scores(q, k, row_frame, key_frame, Valid, batch, frames, window, PRECISION, ACC, PARTLY)
            weights = tl.exp2(scores - log_sum_exp[:, None])
            weights_gradient = tl.dot(gradient, tl.trans(v), input_precision=PRECISION, out_dtype=ACC)
            scores_gradient = (weights * (weights_gradient - delta[:, None])).to(k.dtype)
            query_gradient = tl.dot(scores_gradient, k, query_gradient, input_precision=PRECISION, out_dtype=ACC)
    _store(QueryGradient, out_stride, batch, head, token, row < rows, query_gradient, D, BLOCK_D)


@kernel
def block_causal_key_gradient(
    Query, Key, Value, Valid, Attended, LogSumExp, Gradient, QueryGradient, Delta, KeyGradient, ValueGradient,
    query_stride, key_stride, value_stride, attended_stride, gradient_stride, query_out_stride, out_stride,
    queries, keys, window,
    KV_HEADS: tl.constexpr, GROUPS: tl.constexpr, TOKENS: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr,
    SINGLE: tl.constexpr,
):  # fmt: skip
    """Of keys and values; where a single tile has all keys, of the queries too, for which nothing is then missing."""
    rows, frames = queries * GROUPS, keys // TOKENS
    tile, batch, kv_head = _program(tl.cdiv(keys, BLOCK_KEYS), KV_HEADS)
    key_place = tile * BLOCK_KEYS + tl.arange(0, BLOCK_KEYS)
    key_frame = (key_place // TOKENS)[:, None]
    k = _load(Key, key_stride, batch, kv_head, key_place, key_place < keys, D, BLOCK_D, True)
    v = _load(Value, value_stride, batch, kv_head, key_place, key_place < keys, D, BLOCK_D, True)
    earlier = (keys - queries) // TOKENS
    oldest = tile * BLOCK_KEYS // TOKENS - earlier
    newest = ((tile + 1) * BLOCK_KEYS - 1) // TOKENS - earlier
    first, end, whole, whole_end = _tiles(
        oldest, newest + window - 1, newest, oldest + window - 1, GROUPS * TOKENS, rows, BLOCK_ROWS
    )
    key_gradient = tl.zeros([BLOCK_KEYS, BLOCK_D], ACC)
    value_gradient = tl.zeros([BLOCK_KEYS, BLOCK_D], ACC)
    for PARTLY in tl.static_range(0, 2):
        skipped = (whole_end - whole) * PARTLY
        for index in range(first if PARTLY else whole, end - skipped if PARTLY else whole_end):
            row, token, head = _rows(index + tl.where(index >= whole, skipped, 0), kv_head, GROUPS, BLOCK_ROWS)
            row_frame = (earlier + token // TOKENS)[None, :]
            out_row = (batch * KV_HEADS + kv_head) * rows + row
            q = _load(Query, query_stride, batch, head, token, row < rows, D, BLOCK_D, PARTLY)
            gradient = _load(Gradient, gradient_stride, batch, head, token, row < rows, D, BLOCK_D, PARTLY)
            log_sum_exp = tl.load(LogSumExp + out_row, mask=row < rows, other=0.0)
            if SINGLE:
                attended = _load(Attended, attended_stride, batch, head, token, row < rows, D, BLOCK_D, PARTLY)
                delta = tl.sum(attended.to(ACC) * gradient.to(ACC), 1)
            else:
                delta = tl.load(Delta + out_row, mask=row < rows, other=0.0)
            scores = _scores(k, q, row_frame, key_frame, Valid, batch, frames, window, PRECISION, ACC, PARTLY)
            weights = tl.exp2(scores - log_sum_exp[None, :])
            rounded = weights.to(gradient.dtype)
            value_gradient = tl.dot(rounded, gradient, value_gradient, input_precision=PRECISION, out_dtype=ACC)
            weights_gradient = tl.dot(v, tl.trans(gradient), input_precision=PRECISION, out_dtype=ACC)
            scores_gradient = (weights * (weights_gradient - delta[None, :])).to(q.dtype)
            key_gradient = tl.dot(scores_gradient, q, key_gradient, input_precision=PRECISION, out_dtype=ACC)
            if SINGLE:
                query_gradient = tl.dot(tl.trans(scores_gradient), k, input_precision=PRECISION, out_dtype=ACC)
                _store(QueryGradient, query_out_stride, batch, head, token, row < rows, query_gradient, D, BLOCK_D)
    _store(KeyGradient, out_stride, batch, kv_head, key_place, key_place < keys, key_gradient, D, BLOCK_D)
    _store(ValueGradient, out_stride, batch, kv_head, key_place, key_place < keys, value_gradient, D, BLOCK_D)


def _config(query: Tensor) -> tuple[tuple[int, ...], ...]:
    """The entry of `CONFIGS`."""
    dim, size = query.shape[-1], min(query.itemsize, 4)
    if dim > WIDEST:
        raise ValueError(f"block-causal kernels take {WIDEST} numbers a head, got {dim}: use kernels=torch")
    return for_architecture(CONFIGS, query.device)[size, 64 if dim <= 64 else WIDEST]


def _power_of_two(number: int) -> int:
    """Not below `number`, nor below the 16 that `tl.dot` takes."""
    return max(16, 1 << (number - 1).bit_length())


def _layout(
    query: Tensor, key: Tensor, tokens: int, window: int | None, config: tuple[int, ...], by_keys: bool = False
) -> tuple[tuple[int], tuple[int, int, int], dict]:
    """Grid, integers that follow the strides, and constexpr arguments; a sequence is divided by rows or by keys."""
    batch, heads, queries, dim = query.shape
    kv_heads, keys = key.shape[1:3]
    counts, frames = (heads // kv_heads * queries, keys), keys // tokens
    blocks = [min(most, _power_of_two(count)) for most, count in zip(config[:2], counts, strict=True)]
    warps = max(config[2] // 2, config[2] * blocks[by_keys] // config[by_keys])
    options = {
        "KV_HEADS": kv_heads,
        "GROUPS": heads // kv_heads,
        "TOKENS": tokens,
        "D": dim,
        "BLOCK_D": _power_of_two(dim),
        "BLOCK_ROWS": blocks[0],
        "BLOCK_KEYS": blocks[1],
        "PRECISION": dot_precision(query.dtype),
        "ACC": accumulator(query.dtype),
        "num_warps": warps,
        "num_stages": 2,
        # Left alone, the assembler spills some registers for the sake of more programs than were asked for.
        "maxnreg": min(255, REGISTERS // (32 * warps * config[3]) // 8 * 8),
    }
    grid = (batch * kv_heads * -(-counts[by_keys] // blocks[by_keys]),)
    return grid, (queries, keys, frames if window is None else min(window, frames)), options


def _readable(query: Tensor, *others: Tensor, valid: Tensor | None) -> tuple[list[Tensor], Tensor | None]:
    """As the kernels read them: vectors without gaps, and a row of `valid` for each of the batch."""
    tensors = [x if x.stride(-1) == 1 else x.contiguous() for x in (query, *others)]
    return tensors, None if valid is None else valid.expand(len(query), -1).contiguous()


def _like(x: Tensor) -> Tensor:
    """Empty, of the shape `[B, heads, S, d]`, with the heads of one position side by side in memory."""
    return x.new_empty(x.shape[0], x.shape[2], x.shape[1], x.shape[3]).transpose(1, 2)


def _sums(query: Tensor, key: Tensor) -> Tensor:
    """Empty, a number for each row, in the format of sums: `[B, kv_heads, Q * G]`."""
    shape = query.shape[0], key.shape[1], query.shape[1] // key.shape[1] * query.shape[2]
    return query.new_empty(shape, dtype=torch.promote_types(query.dtype, torch.float32))


def _forward(query, key, value, tokens, window, valid):
    inputs, valid = _readable(query, key, value, valid=valid)
    attended, log_sum_exp = _like(query), _sums(query, key)
    grid, sizes, options = _layout(query, key, tokens, window, _config(query)[FORWARD])
    strides = [x.stride()[:3] for x in (*inputs, attended)]
    block_causal_forward.launch(grid, *inputs, valid, attended, log_sum_exp, *strides, *sizes, **options)
    return attended, log_sum_exp


def _backward(gradient, query, key, value, attended, log_sum_exp, tokens, window, valid):
    (*inputs, attended, gradient), valid = _readable(query, key, value, attended, gradient, valid=valid)
    query_gradient, *gradients = (_like(x) for x in (query, key, value))
    strides = [x.stride()[:3] for x in (*inputs, attended, gradient, query_gradient)]
    tensors = *inputs, valid, attended, log_sum_exp, gradient, query_gradient, torch.empty_like(log_sum_exp)
    configs = _config(query)
    single = key.shape[2] <= configs[SINGLE][1]
    if not single:
        grid, sizes, options = _layout(query, key, tokens, window, configs[QUERIES])
        block_causal_query_gradient.launch(grid, *tensors, *strides, *sizes, **options)
    grid, sizes, options = _layout(query, key, tokens, window, configs[SINGLE if single else KEYS], by_keys=True)
    strides.append(gradients[0].stride()[:3])
    block_causal_key_gradient.launch(grid, *tensors, *gradients, *strides, *sizes, **options, SINGLE=single)
    return query_gradient, *gradients


_ARGUMENTS = "int tokens, int? window, Tensor? valid"
torch.library.define(
    "worldmodel::block_causal_attention", f"(Tensor query, Tensor key, Tensor value, {_ARGUMENTS}) -> (Tensor, Tensor)"
)
torch.library.define(
    "worldmodel::block_causal_attention_backward",
    "(Tensor gradient, Tensor query, Tensor key, Tensor value, Tensor attended, Tensor log_sum_exp, "
    f"{_ARGUMENTS}) -> (Tensor, Tensor, Tensor)",
)
for _device in ("cuda", "cpu"):
    torch.library.impl("worldmodel::block_causal_attention", _device, _forward)
    torch.library.impl("worldmodel::block_causal_attention_backward", _device, _backward)


@torch.library.register_fake("worldmodel::block_causal_attention")
def _(query, key, value, tokens, window, valid):
    return _like(query), _sums(query, key)


@torch.library.register_fake("worldmodel::block_causal_attention_backward")
def _(gradient, query, key, value, attended, log_sum_exp, tokens, window, valid):
    return _like(query), _like(key), _like(value)


def _keep(ctx, inputs, output):
    query, key, value, ctx.tokens, ctx.window, valid = inputs
    ctx.save_for_backward(query, key, value, *output, valid)


def _differentiate(ctx, gradient, _):
    *tensors, valid = ctx.saved_tensors
    gradients = torch.ops.worldmodel.block_causal_attention_backward(gradient, *tensors, ctx.tokens, ctx.window, valid)
    return *gradients, None, None, None


torch.library.register_autograd("worldmodel::block_causal_attention", _differentiate, setup_context=_keep)
