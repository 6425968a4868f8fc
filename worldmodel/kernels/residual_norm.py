"""The residual sum and the norm that follows it, scaled, shifted and gated, in one pass over the rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodel.kernels.dispatch import Backend, accumulator, for_architecture, resolve
from worldmodel.kernels.jit import kernel, part

if TYPE_CHECKING:
    import triton.language as tl

LAYER_NORM_EPS = 1e-5  # what F.layer_norm has
ROWS = 8  # of a program, or more: next to them the weight, and its share of the weight's gradient, are few bytes
FORWARD_CONFIGS = {80: {"elements": 4096, "num_warps": 4, "maxnreg": 128}}
"""Numbers of a tile, which is whole rows: at 4096, each of 128 threads holds 32 of each tensor. Without a bound on
registers the assembler spills some, for the sake of more programs side by side than the memory's latency needs."""
BACKWARD_CONFIGS = {
    80: {"elements": 2048, "num_warps": 4, "maxnreg": 128, "programs": 4 * 108},
    90: {"elements": 2048, "num_warps": 4, "maxnreg": 128, "programs": 4 * 132},
    100: {"elements": 2048, "num_warps": 4, "maxnreg": 128, "programs": 4 * 148},
}
"""More tensors at once, so smaller tiles. At most four programs on each of the multiprocessors of an A100, H100 and
B200, which at 128 registers a thread run side by side: each writes one row of partial sums of the weight's gradient."""


def residual_norm(
    x: Tensor,
    residual: Tensor | None = None,
    gate: Tensor | None = None,
    weight: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    center: bool = False,
    eps: float | None = None,
    backend: Backend | None = None,
) -> tuple[Tensor, Tensor]:
    """`total = residual + gate * x` and `normed = norm(total) * weight * (1 + scale) + shift`.

    The norm is RMSNorm (Zhang & Sennrich 2019) or LayerNorm (Ba et al. 2016); scale, shift and gate make it adaptive
    (AdaLN, Peebles & Xie 2023). What is None is left out.

    Args:
        x: `[..., D]`.
        residual, gate, scale, shift: of x's shape, or broadcast to it.
        weight: `[D]`.
        center: LayerNorm, which subtracts the mean, instead of RMSNorm.
        eps: added to the mean square: by default that of `nn.RMSNorm`, the distance from 1 to the next number of the
            format in which it is computed (float32 for float16 and bfloat16), or that of `F.layer_norm`.
        backend: see `worldmodel.kernels.choose`.

    Returns:
        total, normed: `[..., D]`. Total is rounded to its format before it is normalised; it is `x` itself where there
        is neither a residual nor a gate.
    """
    if eps is None:
        eps = LAYER_NORM_EPS if center else torch.finfo(torch.promote_types(x.dtype, torch.float32)).eps
    if resolve(x, backend) == "torch":
        return residual_norm_reference(x, residual, gate, weight, scale, shift, center, eps)
    residual, gate, scale, shift = (None if y is None else y.expand(x.shape) for y in (residual, gate, scale, shift))
    weight = None if weight is None else weight.expand(x.shape[-1])
    total, normed = torch.ops.worldmodel.residual_norm(x, residual, gate, weight, scale, shift, center, eps)
    return x if residual is None and gate is None else total, normed


def residual_norm_reference(
    x: Tensor,
    residual: Tensor | None,
    gate: Tensor | None,
    weight: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    center: bool,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """The same in plain torch."""
    if gate is None:
        total = x if residual is None else residual + x
    else:
        total = gate * x if residual is None else torch.addcmul(residual, gate, x)
    if center:
        normed = F.layer_norm(total, total.shape[-1:], weight, eps=eps)
    else:
        normed = F.rms_norm(total, total.shape[-1:], weight, eps)
    if scale is None:
        return total, normed if shift is None else normed + shift
    return total, normed * (1 + scale) if shift is None else torch.addcmul(shift, normed, 1 + scale)


# In both kernels a tensor that is None is no part of the compiled code. Rows have a stride, and `repeats` is how many
# rows of x, one after another, share a row of a broadcast tensor.


@part
def _read(Rows, row, column, inside, stride, repeats, ACC: tl.constexpr):
    return tl.load(Rows + (row // repeats).to(tl.int64) * stride + column, mask=inside, other=0.0).to(ACC)


@part
def _write(Rows, values, place, inside):
    tl.store(Rows + place, values.to(Rows.dtype.element_ty), mask=inside)


@part
def _normalise(x, within, eps, D: tl.constexpr, CENTER: tl.constexpr):
    """Rows of mean square 1, and what they were multiplied by; zeros outside stay zeros."""
    if CENTER:
        x = tl.where(within, x - tl.sum(x, 1)[:, None] / D, 0.0)
    factor = tl.rsqrt(tl.sum(x * x, 1) / D + eps)[:, None]
    return x * factor, factor


@kernel
def residual_norm_forward(
    X, Residual, Gate, Weight, Scale, Shift, Total, Normed,
    x_stride, residual_stride, gate_stride, gate_repeats, scale_stride, scale_repeats, shift_stride, shift_repeats,
    rows, eps,
    EACH: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_ROWS: tl.constexpr, CENTER: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, BLOCK_D)[None, :]
    if Weight is not None:
        weight = tl.load(Weight + column, mask=column < D, other=0.0).to(ACC)
    for first in range(0, EACH, BLOCK_ROWS):
        row = tl.program_id(0) * EACH + first + tl.arange(0, BLOCK_ROWS)[:, None]
        inside = (row < rows) & (column < D)
        place = row.to(tl.int64) * D + column
        total = _read(X, row, column, inside, x_stride, 1, ACC)
        if Gate is not None:
            total *= _read(Gate, row, column, inside, gate_stride, gate_repeats, ACC)
        if Residual is not None:
            total += _read(Residual, row, column, inside, residual_stride, 1, ACC)
        if Total is not None:
            _write(Total, total, place, inside)
            total = total.to(Total.dtype.element_ty).to(ACC)
        normed, _ = _normalise(total, column < D, eps, D, CENTER)
        if Weight is not None:
            normed *= weight
        if Scale is not None:
            normed *= 1 + _read(Scale, row, column, inside, scale_stride, scale_repeats, ACC)
        if Shift is not None:
            normed += _read(Shift, row, column, inside, shift_stride, shift_repeats, ACC)
        _write(Normed, normed, place, inside)


@kernel
def residual_norm_backward(
    TotalGradient, NormedGradient, Total, X, Gate, Weight, Scale,
    SumGradient, XGradient, GateGradient, WeightPartials, ScaleGradient,
    total_gradient_stride, normed_gradient_stride, total_stride, x_stride,
    gate_stride, gate_repeats, scale_stride, scale_repeats,
    rows, rows_each, eps,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_ROWS: tl.constexpr, CENTER: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """SumGradient is of the sum that total is: what reaches it as an output, and through the norm."""
    column = tl.arange(0, BLOCK_D)[None, :]
    if Weight is not None:
        weight = tl.load(Weight + column, mask=column < D, other=0.0).to(ACC)
        partial = tl.zeros([BLOCK_ROWS, BLOCK_D], ACC)
    begin = tl.program_id(0) * rows_each
    for first in range(begin, min(begin + rows_each, rows), BLOCK_ROWS):
        row = first + tl.arange(0, BLOCK_ROWS)[:, None]
        inside = (row < rows) & (column < D)
        place = row.to(tl.int64) * D + column
        total = _read(Total, row, column, inside, total_stride, 1, ACC)
        normed, factor = _normalise(total, column < D, eps, D, CENTER)
        gradient = _read(NormedGradient, row, column, inside, normed_gradient_stride, 1, ACC)
        if Scale is not None:
            if Weight is not None:
                _write(ScaleGradient, gradient * normed * weight, place, inside)
            else:
                _write(ScaleGradient, gradient * normed, place, inside)
            gradient *= 1 + _read(Scale, row, column, inside, scale_stride, scale_repeats, ACC)
        if Weight is not None:
            # Where eps is 0, rows past the last have no finite norm.
            partial += tl.where(inside, gradient * normed, 0.0)
            gradient *= weight
        # A row's norm is always the same, and its mean with CENTER: what would change them has no effect.
        along = tl.sum(gradient * normed, 1)[:, None] / D
        if CENTER:
            gradient -= tl.sum(gradient, 1)[:, None] / D
        gradient = factor * (gradient - normed * along)
        if TotalGradient is not None:
            gradient += _read(TotalGradient, row, column, inside, total_gradient_stride, 1, ACC)
        if SumGradient is not None:
            _write(SumGradient, gradient, place, inside)
        if Gate is not None:
            x = _read(X, row, column, inside, x_stride, 1, ACC)
            _write(GateGradient, gradient * x, place, inside)
            gate = _read(Gate, row, column, inside, gate_stride, gate_repeats, ACC)
            _write(XGradient, gradient * gate, place, inside)
    if Weight is not None:
        place = tl.program_id(0).to(tl.int64) * D + column
        _write(WeightPartials, tl.sum(partial, 0)[None, :], place, column < D)


def _matrix(x: Tensor | None) -> tuple[Tensor | None, int]:
    """`x [..., D]` as rows whose numbers are side by side, and the stride of the rows."""
    if x is None:
        return None, 0
    x = x.reshape(-1, x.shape[-1])
    if x.stride(1) != 1:
        x = x.contiguous()
    return x, x.stride(0)


def _broadcast(x: Tensor | None) -> tuple[Tensor | None, int, int]:
    """The same, without a copy of rows that `expand` repeats one after another; and how often it repeats each."""
    if x is None:
        return None, 0, 1
    repeats = 1
    while x.dim() > 1 and x.stride(-2) == 0:
        repeats *= x.shape[-2]
        x = x.select(-2, 0)
    return *_matrix(x), repeats


def _options(shape: torch.Size, config: dict, dtype: torch.dtype, center: bool) -> dict:
    """Constexpr arguments, and the compiler's, for rows `[..., D]`."""
    block = max(16, 1 << (shape[-1] - 1).bit_length())
    return {
        "D": shape[-1],
        "BLOCK_D": block,
        "BLOCK_ROWS": min(max(config["elements"] // block, 1), ROWS),
        "CENTER": center,
        "ACC": accumulator(dtype),
        "num_warps": max(config["num_warps"], min(block // 512, 16)),
        "maxnreg": config["maxnreg"],
    }


def _formats(
    x: Tensor, residual: Tensor | None, gate: Tensor | None, scale: Tensor | None, shift: Tensor | None
) -> tuple[torch.dtype, torch.dtype]:
    """Of total and normed, as torch promotes."""
    formats = [x.dtype]
    for tensors in ((residual, gate), (scale, shift)):
        dtype = formats[-1]
        for tensor in tensors:
            dtype = dtype if tensor is None else torch.promote_types(dtype, tensor.dtype)
        formats.append(dtype)
    return formats[1], formats[2]


def _allocate_forward(x, residual, gate, weight, scale, shift, center, eps) -> tuple[Tensor, Tensor]:
    """Total, empty where it is x, and normed."""
    total, normed = _formats(x, residual, gate, scale, shift)
    same = residual is None and gate is None
    return x.new_empty((0,) if same else x.shape, dtype=total), x.new_empty(x.shape, dtype=normed)


def _allocate_backward(
    total_gradient, normed_gradient, total, x, gate, weight, scale, residual, center, eps
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the sum, x and gate where there is a gate, weight, scale; empty where there is none."""
    wanted = (total if residual or gate is None else None, x, gate, weight, scale)
    return tuple(total.new_empty(0) if y is None else y.new_empty(y.shape) for y in wanted)


def _forward(
    x: Tensor,
    residual: Tensor | None,
    gate: Tensor | None,
    weight: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    center: bool,
    eps: float,
) -> tuple[Tensor, Tensor]:
    total, normed = outputs = _allocate_forward(x, residual, gate, weight, scale, shift, center, eps)
    if x.numel() == 0:
        return outputs
    (x, x_stride), (residual, residual_stride) = _matrix(x), _matrix(residual)
    gate, gate_stride, gate_repeats = _broadcast(gate)
    scale, scale_stride, scale_repeats = _broadcast(scale)
    shift, shift_stride, shift_repeats = _broadcast(shift)
    weight = None if weight is None else weight.contiguous()
    options = _options(x.shape, for_architecture(FORWARD_CONFIGS, x.device), x.dtype, center)
    residual_norm_forward.launch(
        (-(-len(x) // ROWS),),
        x, residual, gate, weight, scale, shift, total if total.numel() else None, normed,
        x_stride, residual_stride, gate_stride, gate_repeats, scale_stride, scale_repeats, shift_stride, shift_repeats,
        len(x), eps, EACH=ROWS, **options,
    )  # fmt: skip
    return outputs


def _backward(
    total_gradient: Tensor | None,
    normed_gradient: Tensor,
    total: Tensor,
    x: Tensor | None,
    gate: Tensor | None,
    weight: Tensor | None,
    scale: Tensor | None,
    residual: bool,
    center: bool,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    outputs = _allocate_backward(total_gradient, normed_gradient, total, x, gate, weight, scale, residual, center, eps)
    if total.numel() == 0:
        return tuple(y.zero_() for y in outputs)
    sum_gradient, x_gradient, gate_gradient, _, scale_gradient = (y if y.numel() else None for y in outputs)
    (total_gradient, total_gradient_stride), (x, x_stride) = _matrix(total_gradient), _matrix(x)
    (normed_gradient, normed_gradient_stride), (total, total_stride) = _matrix(normed_gradient), _matrix(total)
    gate, gate_stride, gate_repeats = _broadcast(gate)
    scale, scale_stride, scale_repeats = _broadcast(scale)
    config = for_architecture(BACKWARD_CONFIGS, total.device)
    options = _options(total.shape, config, total.dtype, center)
    tiles = -(-len(total) // options["BLOCK_ROWS"])
    rows_each = max(ROWS, -(-tiles // config["programs"]) * options["BLOCK_ROWS"])
    programs = -(-len(total) // rows_each)
    partials = None
    if weight is not None:
        weight = weight.contiguous()
        partials = weight.new_empty(programs, len(weight), dtype=torch.promote_types(total.dtype, torch.float32))
    residual_norm_backward.launch(
        (programs,),
        total_gradient, normed_gradient, total, x, gate, weight, scale,
        sum_gradient, x_gradient, gate_gradient, partials, scale_gradient,
        total_gradient_stride, normed_gradient_stride, total_stride, x_stride,
        gate_stride, gate_repeats, scale_stride, scale_repeats,
        len(total), rows_each, eps, **options,
    )  # fmt: skip
    if partials is None:
        return outputs
    return *outputs[:3], partials.sum(0).to(weight.dtype), outputs[4]


_OPTIONAL = "Tensor? gate, Tensor? weight, Tensor? scale"
torch.library.define(
    "worldmodel::residual_norm",
    f"(Tensor x, Tensor? residual, {_OPTIONAL}, Tensor? shift, bool center, float eps) -> (Tensor, Tensor)",
)
torch.library.define(
    "worldmodel::residual_norm_backward",
    f"(Tensor? total_gradient, Tensor normed_gradient, Tensor total, Tensor? x, {_OPTIONAL}, bool residual, "
    "bool center, float eps) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
for _device in ("cuda", "cpu"):
    torch.library.impl("worldmodel::residual_norm", _device, _forward)
    torch.library.impl("worldmodel::residual_norm_backward", _device, _backward)
torch.library.register_fake("worldmodel::residual_norm", _allocate_forward)
torch.library.register_fake("worldmodel::residual_norm_backward", _allocate_backward)


def _keep(ctx, inputs, output):
    x, residual, gate, weight, scale, shift, ctx.center, ctx.eps = inputs
    ctx.dtypes = [None if y is None else y.dtype for y in (x, residual, shift)]
    ctx.summed = residual is not None or gate is not None
    ctx.set_materialize_grads(False)  # no zeros to read where only one of the outputs is used
    total = output[0] if ctx.summed else x
    ctx.save_for_backward(total, None if gate is None else x, gate, weight, scale)


def _differentiate(ctx, total_gradient, normed_gradient):
    total, x, gate, weight, scale = ctx.saved_tensors
    of_x, of_residual, of_shift = ctx.dtypes
    if normed_gradient is None:
        normed_gradient = torch.zeros_like(total)
    sum_gradient, x_gradient, *gradients = torch.ops.worldmodel.residual_norm_backward(
        total_gradient if ctx.summed else None, normed_gradient, total, x, gate, weight, scale,
        of_residual is not None, ctx.center, ctx.eps,
    )  # fmt: skip
    present = (gate is not None, weight is not None, scale is not None)
    return (
        (sum_gradient if gate is None else x_gradient).to(of_x),
        None if of_residual is None else sum_gradient.to(of_residual),
        *(gradient if have else None for gradient, have in zip(gradients, present, strict=True)),
        None if of_shift is None else normed_gradient.to(of_shift),
        None,
        None,
    )


torch.library.register_autograd("worldmodel::residual_norm", _differentiate, setup_context=_keep)
