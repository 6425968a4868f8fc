"""Attention along one axis of `[batch, time, tokens]`, of queries and keys that it normalises and rotates itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodel.kernels.attention import attention, rotate
from worldmodel.kernels.dispatch import Backend, accumulator, dot_precision, for_architecture, resolve
from worldmodel.kernels.jit import kernel, part

if TYPE_CHECKING:
    import triton.language as tl

Axis = Literal["time", "space"]
EPS = torch.finfo(torch.float32).eps  # of QK-norm, in every format
LONGEST = {2: 64, 4: 32}  # positions, by the bytes of a number: more do not fit into the registers of the backward
WIDEST = 64  # numbers of a head, for the same reason
CONFIGS = {
    80: {
        ("forward", 2, 16): {"num_warps": 1, "num_stages": 2},
        ("forward", 2, 32): {"num_warps": 2, "num_stages": 2},
        ("forward", 2, 64): {"num_warps": 8, "num_stages": 2},
        ("forward", 4, 16): {"num_warps": 2, "num_stages": 2},
        ("forward", 4, 32): {"num_warps": 8, "num_stages": 2},
        ("backward", 2, 16): {"num_warps": 2, "num_stages": 2, "maxnreg": 200},
        ("backward", 2, 64): {"num_warps": 8, "num_stages": 1},  # for 32 too: eight warps divide a tile of 64 alone
        ("backward", 4, 16): {"num_warps": 4, "num_stages": 1},
        ("backward", 4, 32): {"num_warps": 8, "num_stages": 1},
    }
}
"""By pass, bytes of a number and positions of a tile: the fewest warps that keep it in registers, on newer GPUs too,
since many small programs hide each other's waiting; and two stages, which load for the next head, where they fit."""


def axial_attention(
    packed: Tensor, scale: Tensor, phases: Tensor, heads: int, kv_heads: int, axis: Axis, causal: bool,
    window: int | None = None, valid: Tensor | None = None, backend: Backend | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Grouped-query attention along one axis with QK-norm (Henry et al. 2020; Dehghani et al. 2023) and rotary
    positions (Su et al. 2021), of what a linear layer made: the kernel reads it in place, and nothing is transposed.

    Args:
        packed: `[B, T, N, C]`, of any strides; its first columns are `heads` queries, `kv_heads` keys and `kv_heads`
            values of d numbers each. Head k * G + g, with G = heads / kv_heads, reads key head k.
        scale: `[heads + kv_heads]`, of the normalised queries and keys; 1 / sqrt(d) is part of the queries'.
        phases: `[S, 2, d]` of `rotary_phases`, of the S positions along the axis; without a gradient.
        heads, kv_heads: of the queries, and of the keys and values.
        axis: `time`, a sequence of S = T for each token of a row; `space`, one of S = N for each frame.
        causal: position j sees i <= j only.
        window: and j - i < window only; all if None.
        valid: `[B, T]` bool, frames that may be seen, along `time`; all if None.
        backend: see `worldmodel.kernels.choose`.

    Returns:
        `[B, T, N, heads * d]`, finite but without meaning where a position sees nothing; and the normalised, scaled,
        rotated keys, `[B, T, N, kv_heads, d]`, for a cache.

    Raises:
        ValueError: the arguments do not go together; or a kernel was chosen explicitly, and the sequences or heads are
            too long for it (`auto` takes plain torch then).
    """
    (*_, length), dim = _ordered(packed.shape, axis), phases.shape[-1]
    columns = (heads + 2 * kv_heads) * dim
    if heads % kv_heads or packed.shape[-1] < columns or len(phases) != length:
        raise ValueError(
            f"{heads} heads and {kv_heads} key heads of packed {tuple(packed.shape)} do not go with phases "
            f"{tuple(phases.shape)} along {axis}"
        )
    if valid is not None and axis != "time":
        raise ValueError("valid is of frames: axis must be time")
    packed = packed[..., :columns] if packed.shape[-1] > columns else packed
    arguments = packed, scale, phases, heads, kv_heads, axis, causal, window, valid
    if resolve(packed, backend, fits(length, dim, packed.dtype)) == "torch":
        return axial_attention_reference(*arguments)
    return torch.ops.worldmodel.axial_attention(*arguments)


def _ordered(of: Sequence[int], axis: Axis) -> tuple[int, int, int]:
    """The sizes or strides of the batch, of the sequences of one of its rows, and of the positions of a sequence."""
    return (of[0], of[2], of[1]) if axis == "time" else (of[0], of[1], of[2])


def fits(length: int, dim: int, dtype: torch.dtype) -> bool:
    """Whether the kernels take sequences of `length` positions and heads of `dim` numbers."""
    return length <= LONGEST[min(dtype.itemsize, 4)] and dim <= WIDEST


def axial_attention_reference(
    packed: Tensor, scale: Tensor, phases: Tensor, heads: int, kv_heads: int, axis: Axis, causal: bool,
    window: int | None = None, valid: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The same in plain torch."""
    batch, frames, tokens, _ = packed.shape
    dim, dtype = phases.shape[-1], packed.dtype
    exact = torch.promote_types(dtype, torch.float32)
    query_key, value = packed.unflatten(-1, (-1, dim)).split([heads + kv_heads, kv_heads], dim=-2)
    query_key = F.rms_norm(query_key.to(exact), (dim,), eps=EPS) * scale[:, None]
    phases = phases.to(exact)[:, None] if axis == "space" else phases.to(exact)[:, None, None]
    query, key = rotate(query_key, phases).to(dtype).split([heads, kv_heads], dim=-2)

    along, others = (1, tokens) if axis == "time" else (2, frames)
    position = torch.arange(packed.shape[along], device=packed.device)
    age = position[:, None] - position
    seen = (age >= 0 if causal else torch.ones_like(age, dtype=torch.bool))[None, None]
    if window is not None:
        seen = seen & (age < window)
    if valid is not None:
        seen = seen & valid.repeat_interleave(tokens, 0)[:, None, None]
    # Finite, in float16 too, so that a position with nothing to see gives numbers and not NaN.
    mask = torch.where(seen, 0.0, max(-1e9, torch.finfo(dtype).min / 2)).to(dtype)
    sequences = [x.movedim(along, 2).flatten(0, 1).transpose(1, 2) for x in (query, key, value)]
    attended = attention(*sequences, mask).transpose(1, 2).flatten(2)
    return attended.unflatten(0, (batch, others)).movedim(2, along), key


# A program has one key head of one sequence, and goes through the heads that read it. Its tiles are of columns by
# positions, `[BLOCK_HALF, BLOCK_S]`, and come in pairs: rotations pair column i with column i + d / 2. Positions come
# second since a tensor core's results are divided among warps along the longer side.


@part
def _load(Place, offset, inside, D: tl.constexpr, BLOCK_HALF: tl.constexpr):
    """The halves of rows that start at `offset [1, BLOCK_S]`."""
    column = tl.arange(0, BLOCK_HALF)[:, None]
    inside = inside & (column < D // 2)
    first = tl.load(Place + offset + column, mask=inside, other=0.0)
    second = tl.load(Place + offset + D // 2 + column, mask=inside, other=0.0)
    return first, second


@part
def _store(Place, offset, inside, first, second, D: tl.constexpr, BLOCK_HALF: tl.constexpr):
    column = tl.arange(0, BLOCK_HALF)[:, None]
    inside = inside & (column < D // 2)
    tl.store(Place + offset + column, first.to(Place.dtype.element_ty), mask=inside)
    tl.store(Place + offset + D // 2 + column, second.to(Place.dtype.element_ty), mask=inside)


@part
def _load_phases(Phases, row, inside, D: tl.constexpr, BLOCK_HALF: tl.constexpr, ACC: tl.constexpr):
    """Cosines and sines of the first halves; the second ones repeat them."""
    column = tl.arange(0, BLOCK_HALF)[:, None]
    place, inside = Phases + row * 2 * D + column, inside & (column < D // 2)
    return tl.load(place, mask=inside, other=0.0).to(ACC), tl.load(place + D + D // 2, mask=inside, other=0.0).to(ACC)


@part
def _turn(first, second, cosine, sine):
    return first * cosine - second * sine, second * cosine + first * sine


@part
def _project(x1, x2, scale, cosine, sine, EPS: tl.constexpr, D: tl.constexpr, ACC: tl.constexpr):
    """Halves normalised, scaled and rotated, in the format that they came in, and the norm's factors `[1, BLOCK_S]`."""
    first, second = x1.to(ACC), x2.to(ACC)
    factor = tl.rsqrt((tl.sum(first * first, 0) + tl.sum(second * second, 0)) / D + EPS)[None, :]
    first, second = _turn(first * (factor * scale), second * (factor * scale), cosine, sine)
    return first.to(x1.dtype), second.to(x1.dtype), factor


@part
def _project_back(gradient1, gradient2, x1, x2, factor, scale, cosine, sine, D: tl.constexpr, ACC: tl.constexpr):
    """The gradients of what `_project` took, that of the scale summed up."""
    first, second = x1.to(ACC), x2.to(ACC)
    gradient1, gradient2 = _turn(gradient1, gradient2, cosine, -sine)
    share = factor * (tl.sum(gradient1 * first, 0) + tl.sum(gradient2 * second, 0))[None, :]
    along = factor * share / D
    factor = factor * scale
    return factor * (gradient1 - first * along), factor * (gradient2 - second * along), tl.sum(share)


@part
def _seen(position, length, Valid, inside, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, HAS_VALID: tl.constexpr):
    """Which keys each query sees, `[keys, queries]` or broadcast to it; `Valid` is of the sequence's frames."""
    query, key = position[None, :], position[:, None]
    seen = key <= query if CAUSAL else key < length
    if WINDOW > 0:
        seen = seen & (query - key < WINDOW)
    if HAS_VALID:
        seen = seen & (tl.load(Valid + position, mask=inside, other=0) != 0)[:, None]
    return seen


@part
def _weights(query1, query2, key1, key2, seen, PRECISION: tl.constexpr, ACC: tl.constexpr):
    """Softmax over the keys of `[keys, queries]`; zeros for a query that sees nothing."""
    scores = tl.dot(tl.trans(key1), query1, input_precision=PRECISION, out_dtype=ACC)
    scores = tl.dot(tl.trans(key2), query2, scores, input_precision=PRECISION, out_dtype=ACC)
    scores = tl.where(seen, scores * 1.4426950408889634, -1.0e30)  # log2(e), for exp2
    weights = tl.where(seen, tl.exp2(scores - tl.max(scores, 0)[None, :]), 0.0)
    total = tl.sum(weights, 0)[None, :]
    return weights * (1.0 / tl.where(total > 0, total, 1.0))


@kernel
def axial_attention_forward(
    Packed, Scale, Phases, Valid, Attended, Keys, sequences, inner, length,
    outer_stride, inner_stride, stride, outer_tokens, inner_tokens, tokens,
    GROUP: tl.constexpr, D: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_HALF: tl.constexpr, SEQUENCES: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, HAS_VALID: tl.constexpr, FAR: tl.constexpr,
    EPS: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    kv_head, kv_heads = tl.program_id(1), tl.num_programs(1)
    heads = kv_heads * GROUP
    position = tl.arange(0, BLOCK_S)
    row = (position.to(tl.int64) if FAR else position)[None, :]
    cosine, sine = _load_phases(Phases, row, row < length, D, BLOCK_HALF, ACC)
    key_scale = tl.load(Scale + heads + kv_head).to(ACC)
    for index in tl.static_range(SEQUENCES):
        sequence = tl.program_id(0) * SEQUENCES + index
        inside = (row < length) & (sequence < sequences)
        outer, other = (sequence // inner).to(tl.int64), (sequence % inner).to(tl.int64)
        packed = Packed + outer * outer_stride + other * inner_stride
        token = outer * outer_tokens + other * inner_tokens
        key1, key2 = _load(packed + (heads + kv_head) * D, row * stride, inside, D, BLOCK_HALF)
        value1, value2 = _load(packed + (heads + kv_heads + kv_head) * D, row * stride, inside, D, BLOCK_HALF)
        key1, key2, _ = _project(key1, key2, key_scale, cosine, sine, EPS, D, ACC)
        keys = Keys + (token * kv_heads + kv_head) * D
        _store(keys, row * (tokens * kv_heads * D), inside, key1, key2, D, BLOCK_HALF)
        frames = (position < length) & (sequence < sequences)
        seen = _seen(position, length, Valid + outer * length, frames, CAUSAL, WINDOW, HAS_VALID)
        for head in tl.range(kv_head * GROUP, kv_head * GROUP + GROUP):
            scale = tl.load(Scale + head).to(ACC)
            query1, query2 = _load(packed + head * D, row * stride, inside, D, BLOCK_HALF)
            query1, query2, _ = _project(query1, query2, scale, cosine, sine, EPS, D, ACC)
            weights = _weights(query1, query2, key1, key2, seen, PRECISION, ACC).to(value1.dtype)
            attended1 = tl.dot(value1, weights, input_precision=PRECISION, out_dtype=ACC)
            attended2 = tl.dot(value2, weights, input_precision=PRECISION, out_dtype=ACC)
            attended = Attended + (token * heads + head) * D
            _store(attended, row * (tokens * heads * D), inside, attended1, attended2, D, BLOCK_HALF)


@kernel
def axial_attention_backward(
    Gradient, KeysGradient, Packed, Scale, Phases, Valid, PackedGradient, ScaleGradients, inner, length,
    outer_above, inner_above, above, outer_stride, inner_stride, stride, outer_tokens, inner_tokens, tokens,
    GROUP: tl.constexpr, D: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_HALF: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, HAS_VALID: tl.constexpr, FAR: tl.constexpr,
    HAS_KEYS_GRADIENT: tl.constexpr, EPS: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The weights are computed again. `ScaleGradients [sequences, heads + kv_heads]` are each sequence's share."""
    sequence, kv_head, kv_heads = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    heads = kv_heads * GROUP
    width = (heads + 2 * kv_heads) * D
    position = tl.arange(0, BLOCK_S)
    row = (position.to(tl.int64) if FAR else position)[None, :]
    inside = row < length
    outer, other = (sequence // inner).to(tl.int64), (sequence % inner).to(tl.int64)
    token = outer * outer_tokens + other * inner_tokens
    packed = Packed + outer * outer_stride + other * inner_stride
    packed_key, packed_value = packed + (heads + kv_head) * D, packed + (heads + kv_heads + kv_head) * D
    gradient = Gradient + outer * outer_above + other * inner_above
    result = PackedGradient + token * width
    scale_gradients = ScaleGradients + sequence.to(tl.int64) * (heads + kv_heads)

    cosine, sine = _load_phases(Phases, row, inside, D, BLOCK_HALF, ACC)
    key_scale = tl.load(Scale + heads + kv_head).to(ACC)
    key_x1, key_x2 = _load(packed_key, row * stride, inside, D, BLOCK_HALF)
    value1, value2 = _load(packed_value, row * stride, inside, D, BLOCK_HALF)
    key1, key2, key_factor = _project(key_x1, key_x2, key_scale, cosine, sine, EPS, D, ACC)
    value_gradient1, value_gradient2 = tl.zeros([BLOCK_HALF, BLOCK_S], ACC), tl.zeros([BLOCK_HALF, BLOCK_S], ACC)
    key_gradient1, key_gradient2 = tl.zeros([BLOCK_HALF, BLOCK_S], ACC), tl.zeros([BLOCK_HALF, BLOCK_S], ACC)
    if HAS_KEYS_GRADIENT:
        keys_gradient = KeysGradient + (token * kv_heads + kv_head) * D
        arriving1, arriving2 = _load(keys_gradient, row * (tokens * kv_heads * D), inside, D, BLOCK_HALF)
        key_gradient1, key_gradient2 = arriving1.to(ACC), arriving2.to(ACC)
    seen = _seen(position, length, Valid + outer * length, position < length, CAUSAL, WINDOW, HAS_VALID)
    for head in tl.range(kv_head * GROUP, kv_head * GROUP + GROUP):
        scale = tl.load(Scale + head).to(ACC)
        x1, x2 = _load(packed + head * D, row * stride, inside, D, BLOCK_HALF)
        above1, above2 = _load(gradient + head * D, row * above, inside, D, BLOCK_HALF)
        query1, query2, factor = _project(x1, x2, scale, cosine, sine, EPS, D, ACC)
        weights = _weights(query1, query2, key1, key2, seen, PRECISION, ACC)
        slope = tl.dot(tl.trans(value1), above1, input_precision=PRECISION, out_dtype=ACC)
        slope = tl.dot(tl.trans(value2), above2, slope, input_precision=PRECISION, out_dtype=ACC)
        slope = (weights * (slope - tl.sum(weights * slope, 0)[None, :])).to(x1.dtype)
        below1 = tl.dot(key1, slope, input_precision=PRECISION, out_dtype=ACC)
        below2 = tl.dot(key2, slope, input_precision=PRECISION, out_dtype=ACC)
        below1, below2, share = _project_back(below1, below2, x1, x2, factor, scale, cosine, sine, D, ACC)
        _store(result + head * D, row * (tokens * width), inside, below1, below2, D, BLOCK_HALF)
        tl.store(scale_gradients + head, share)
        weights = tl.trans(weights.to(x1.dtype))
        value_gradient1 = tl.dot(above1, weights, value_gradient1, input_precision=PRECISION, out_dtype=ACC)
        value_gradient2 = tl.dot(above2, weights, value_gradient2, input_precision=PRECISION, out_dtype=ACC)
        key_gradient1 = tl.dot(query1, tl.trans(slope), key_gradient1, input_precision=PRECISION, out_dtype=ACC)
        key_gradient2 = tl.dot(query2, tl.trans(slope), key_gradient2, input_precision=PRECISION, out_dtype=ACC)
    if GROUP > 1:  # a second read takes fewer registers than to keep it; beside a single query it is too many bytes
        key_x1, key_x2 = _load(packed_key, row * stride, inside, D, BLOCK_HALF)
        _, _, key_factor = _project(key_x1, key_x2, key_scale, cosine, sine, EPS, D, ACC)
    below1, below2 = key_gradient1, key_gradient2
    below1, below2, share = _project_back(below1, below2, key_x1, key_x2, key_factor, key_scale, cosine, sine, D, ACC)
    result += (heads + kv_head) * D
    _store(result, row * (tokens * width), inside, below1, below2, D, BLOCK_HALF)
    result += kv_heads * D
    _store(result, row * (tokens * width), inside, value_gradient1, value_gradient2, D, BLOCK_HALF)
    tl.store(scale_gradients + heads + kv_head, share)


def _options(which: str, strided: list[Tensor], axis: Axis, dim: int) -> dict:
    """Sizes of the tiles for `strided`, all the tensors `[B, T, N, ...]`, packed first; and their number formats."""
    packed, length = strided[0], _ordered(strided[0].shape, axis)[2]
    configs, size = for_architecture(CONFIGS, packed.device), min(packed.itemsize, 4)
    if not fits(length, dim, packed.dtype):
        raise ValueError(
            f"the kernels of axial attention take {LONGEST[size]} positions of {packed.dtype} and {WIDEST} numbers a "
            f"head, got {length} and {dim}: use kernels=auto or kernels=torch"
        )
    block = min(block for name, bytes_, block in configs if (name, bytes_) == (which, size) and block >= length)
    reach = max((length - 1) * _ordered(x.stride(), axis)[2] + x.shape[3:].numel() for x in strided)
    return {
        "D": dim,
        "BLOCK_S": block,
        "BLOCK_HALF": max(16, 1 << (dim // 2 - 1).bit_length()),
        "FAR": reach >= 2**31,
        "EPS": EPS,
        "PRECISION": dot_precision(packed.dtype),
        "ACC": accumulator(packed.dtype),
        **configs[which, size, block],
    }


def _forward(packed, scale, phases, heads, kv_heads, axis, causal, window, valid):
    packed, dim = packed if packed.stride(-1) == 1 else packed.contiguous(), phases.shape[-1]
    attended = packed.new_empty(*packed.shape[:3], heads * dim)
    keys = packed.new_empty(*packed.shape[:3], kv_heads, dim)
    # Phases are as many bytes as two keys: where a key has a single query, two sequences share them.
    together = 2 if heads == kv_heads else 1
    batch, others, length = _ordered(packed.shape, axis)
    axial_attention_forward.launch(
        (-(-batch * others // together), kv_heads), packed, scale.contiguous(), phases.contiguous(),
        packed if valid is None else valid.contiguous(), attended, keys, batch * others, others, length,
        *_ordered(packed.stride(), axis), *(x // (heads * dim) for x in _ordered(attended.stride(), axis)),
        GROUP=heads // kv_heads, SEQUENCES=together, CAUSAL=causal, WINDOW=window or 0, HAS_VALID=valid is not None,
        **_options("forward", [packed, attended], axis, dim),
    )  # fmt: skip
    return attended, keys


def _backward(gradient, keys_gradient, packed, scale, phases, heads, kv_heads, axis, causal, window, valid):
    packed, gradient = (x if x.stride(-1) == 1 else x.contiguous() for x in (packed, gradient))
    packed_gradient = torch.empty_like(packed, memory_format=torch.contiguous_format)
    batch, others, length = _ordered(packed.shape, axis)
    scale_gradients = scale.new_empty(batch * others, heads + kv_heads)
    axial_attention_backward.launch(
        (batch * others, kv_heads), gradient, packed if keys_gradient is None else keys_gradient.contiguous(), packed,
        scale.contiguous(), phases.contiguous(), packed if valid is None else valid.contiguous(), packed_gradient,
        scale_gradients, others, length, *_ordered(gradient.stride(), axis), *_ordered(packed.stride(), axis),
        *(x // packed.shape[-1] for x in _ordered(packed_gradient.stride(), axis)), GROUP=heads // kv_heads,
        CAUSAL=causal, WINDOW=window or 0, HAS_VALID=valid is not None, HAS_KEYS_GRADIENT=keys_gradient is not None,
        **_options("backward", [packed, gradient, packed_gradient], axis, phases.shape[-1]),
    )  # fmt: skip
    return packed_gradient, scale_gradients.sum(0)


_TAKEN = "Tensor packed, Tensor scale, Tensor phases, int heads, int kv_heads, str axis, bool causal"
_TAKEN += ", int? window, Tensor? valid"
_ABOVE = "Tensor gradient, Tensor? keys_gradient"
torch.library.define("worldmodel::axial_attention", f"({_TAKEN}) -> (Tensor, Tensor)")
torch.library.define("worldmodel::axial_attention_backward", f"({_ABOVE}, {_TAKEN}) -> (Tensor, Tensor)")
for _device in ("cuda", "cpu"):
    torch.library.impl("worldmodel::axial_attention", _device, _forward)
    torch.library.impl("worldmodel::axial_attention_backward", _device, _backward)


@torch.library.register_fake("worldmodel::axial_attention")
def _(packed, scale, phases, heads, kv_heads, axis, causal, window, valid):
    rows, dim = packed.shape[:3], phases.shape[-1]
    return packed.new_empty(*rows, heads * dim), packed.new_empty(*rows, kv_heads, dim)


@torch.library.register_fake("worldmodel::axial_attention_backward")
def _(gradient, keys_gradient, packed, scale, *_):
    return torch.empty_like(packed, memory_format=torch.contiguous_format), torch.empty_like(scale)


def _keep(ctx, inputs, output):
    packed, scale, phases, *ctx.arguments, valid = inputs
    ctx.save_for_backward(packed, scale, phases, valid)
    ctx.set_materialize_grads(False)


def _differentiate(ctx, gradient, keys_gradient):
    packed, scale, phases, valid = ctx.saved_tensors
    if gradient is None:  # only the keys are used
        gradient = packed.new_zeros(*packed.shape[:3], ctx.arguments[0] * phases.shape[-1])
    gradients = torch.ops.worldmodel.axial_attention_backward(
        gradient, keys_gradient, packed, scale, phases, *ctx.arguments, valid
    )
    return *gradients, *[None] * 7


torch.library.register_autograd("worldmodel::axial_attention", _differentiate, setup_context=_keep)
