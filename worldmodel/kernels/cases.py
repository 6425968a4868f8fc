"""Calls of every operation as training, planning and rollouts make them: what its kernels are compiled and counted for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from worldmodel.kernels import (  # noqa: F401  registers the operations
    axial_attention,
    block_causal_attention,
    decode_attention,
    lambda_return,
    residual_norm,
    shared_prefix_attention,
)
from worldmodel.kernels.attention import rotary_phases

FRAMES = 16  # of a training window, and of an imagined future


@dataclass(frozen=True)
class Shape:
    """Of a belief transformer."""

    tokens: int
    width: int
    heads: int
    kv_heads: int
    window: int

    @property
    def dim(self) -> int:
        return self.width // self.heads


SHAPES = {  # of configs/model/*.yaml
    "tiny": Shape(1, 192, 4, 1, 8),
    "small": Shape(1, 384, 6, 2, 16),
    "base": Shape(4, 768, 12, 4, 16),
    "large": Shape(16, 1280, 20, 4, 16),
}
WIDE_HEADS = Shape(4, 768, 6, 2, 16)  # of 128 numbers, which no model of ours has, but kernels have tiles for


@dataclass(frozen=True)
class Case:
    """A way to call an operation.

    Attributes:
        run: makes inputs for so many rows (sequences, returns, histories), calls the registered operation on them, and
            its backward where it has one.
        rows: as in use; kernels are compiled for them.
        few: as many as the interpreter counts the bytes of.
        useful: additions and multiplications of a row's products of matrices, forward, those that a mask discards left
            out; 0 for none.
        idle: bytes of a row's tensors that need not be read, as they are of frames that may not be seen.
        shared: bytes that a row's candidates share, times how many more candidates than one there are.
        most_bytes: limit of the requested over the compulsory bytes, beside what is committed.
        least_saved: limit of the bytes that candidates without a shared history would request, over the requested.
    """

    run: Callable[[int], None]
    rows: int
    few: int
    useful: int = 0
    idle: int = 0
    shared: int = 0
    most_bytes: float | None = None
    least_saved: float | None = None


@dataclass
class Call:
    """One call of a registered operation.

    Attributes:
        operation: its name.
        compulsory: bytes of what it takes, each read once, and of what it gives, each written once.
        before, after: what `probe` of `Calls` said.
    """

    operation: str
    compulsory: int
    before: Any
    after: Any


class Calls(TorchDispatchMode):
    """Collects, while within, the calls of registered operations; those of a backward pass too.

    Args:
        probe: is asked before and after each.
    """

    def __init__(self, probe: Callable[[], Any]):
        super().__init__()
        self.probe, self.calls = probe, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace != "worldmodel":
            return function(*args, **(kwargs or {}))
        before = self.probe()
        result = function(*args, **(kwargs or {}))
        outputs = result if isinstance(result, (tuple, list)) else [result]
        name = function.name().removeprefix("worldmodel::")
        self.calls.append(Call(name, compulsory_bytes([*args, *outputs]), before, self.probe()))
        return result


def compulsory_bytes(tensors: Sequence[Any]) -> int:
    """Bytes of the elements of all different tensors, each once: an expanded one is no larger than what it repeats. A ring
    that is written to in place counts once, its new slot as written and the others as read."""
    different = {(x.data_ptr(), x.shape, x.stride()): x for x in tensors if isinstance(x, Tensor) and x.numel()}
    total = 0
    for x in different.values():
        elements = torch.Size(size for size, stride in zip(x.shape, x.stride(), strict=True) if stride)
        total += elements.numel() * x.element_size()
    return total


def _leaf(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(shape, dtype=dtype).requires_grad_()


def _differentiate(*outputs: Tensor) -> None:
    torch.autograd.backward(outputs, [torch.randn_like(x) for x in outputs])


def _pairs(length: int, window: int) -> int:
    """Of a query and a key that it sees, in a causal sequence."""
    return sum(min(position + 1, window) for position in range(length))


def _lambda_return(horizon: int, dtype: torch.dtype) -> Case:
    def run(rows: int) -> None:
        rewards, continues, values = (_leaf(rows, horizon + more, dtype=dtype) for more in (0, 0, 1))
        _differentiate(torch.ops.worldmodel.lambda_return(rewards, continues, values, 0.997, 0.95))

    return Case(run, rows=1024, few=64)


def _residual_norm(width: int, length: int, few: int, dtype: torch.dtype = torch.bfloat16) -> Case:
    """A transformer's: the block's output joins the residual stream, whose RMSNorm is the next block's input."""

    def run(rows: int) -> None:
        x, residual = (_leaf(rows, length, width, dtype=dtype) for _ in range(2))
        weight = _leaf(width, dtype=torch.float32)
        eps = torch.finfo(torch.float32).eps
        _differentiate(*torch.ops.worldmodel.residual_norm(x, residual, None, weight, None, None, False, eps))

    return Case(run, rows=32, few=few, most_bytes=1.3)


def _adaptive_norm(width: int, few: int) -> Case:
    """The transition's: LayerNorm, scaled and shifted by halves of what a linear layer made of the action."""

    def run(rows: int) -> None:
        scale, shift = _leaf(rows, 2 * width).chunk(2, dim=-1)
        output = torch.ops.worldmodel.residual_norm(_leaf(rows, width), None, None, None, scale, shift, True, 1e-5)
        _differentiate(output[1])

    return Case(run, rows=4096, few=few, most_bytes=1.3)


def _gated_norm(width: int, few: int) -> Case:
    """A residual layer's that an action modulates: a gated sum, then its LayerNorm, scaled and shifted."""

    def run(rows: int) -> None:
        x, residual = _leaf(rows, width), _leaf(rows, width)
        gate, scale, shift = _leaf(rows, 3 * width).chunk(3, dim=-1)
        _differentiate(*torch.ops.worldmodel.residual_norm(x, residual, gate, None, scale, shift, True, 1e-5))

    return Case(run, rows=4096, few=few, most_bytes=1.3)


def _axial_attention(shape: Shape, axis: str, frames: int, few: int, dtype: torch.dtype = torch.bfloat16) -> Case:
    columns = (shape.heads + 2 * shape.kv_heads) * shape.dim
    along_time = axis == "time"
    length, others = (frames, shape.tokens) if along_time else (shape.tokens, frames)
    window = shape.window if along_time else None

    def run(rows: int) -> None:
        # The same linear layer makes the hidden layer of the SwiGLU beside the attention, 2 * 2 * width numbers.
        packed = _leaf(rows, frames, shape.tokens, columns + 4 * shape.width, dtype=dtype)[..., :columns]
        scale = _leaf(shape.heads + shape.kv_heads, dtype=torch.float32)
        phases = rotary_phases(torch.arange(length), shape.dim)
        _differentiate(*torch.ops.worldmodel.axial_attention(
            packed, scale, phases, shape.heads, shape.kv_heads, axis, along_time, window, None
        ))  # fmt: skip

    pairs = others * (_pairs(length, shape.window) if along_time else length * length)
    return Case(run, rows=32, few=few, useful=4 * shape.width * pairs, most_bytes=1.3)


def _block_causal_attention(shape: Shape, frames: int, few: int, dtype: torch.dtype = torch.bfloat16) -> Case:
    def run(rows: int) -> None:
        heads = shape.heads, shape.kv_heads, shape.kv_heads
        tensors = [_leaf(rows, frames * shape.tokens, count, shape.dim, dtype=dtype).transpose(1, 2) for count in heads]
        operation = torch.ops.worldmodel.block_causal_attention
        _differentiate(operation(*tensors, shape.tokens, shape.window, None)[0])

    pairs = _pairs(frames, shape.window) * shape.tokens**2
    return Case(run, rows=32, few=few, useful=4 * shape.width * pairs)


def _new_frame(shape: Shape, rows: int, dtype: torch.dtype) -> list[Tensor]:
    """Queries, keys and values of a frame, and rings of `window` frames."""
    heads, kv_heads = shape.heads, shape.kv_heads
    new = torch.randn(rows, shape.tokens, heads + 2 * kv_heads, shape.dim, dtype=dtype)
    ring = rows, kv_heads, shape.window * shape.tokens, shape.dim
    caches = [torch.randn(ring, dtype=dtype) for _ in range(2)]
    return [*new.transpose(1, 2).split([heads, kv_heads, kv_heads], dim=1), *caches]


def _decode_attention(shape: Shape, few: int, dtype: torch.dtype = torch.bfloat16) -> Case:
    """A step of a rollout in the middle of an episode."""

    def run(rows: int) -> None:
        valid = torch.ones(rows, shape.window, dtype=torch.bool)
        torch.ops.worldmodel.decode_attention(*_new_frame(shape, rows, dtype), torch.tensor(shape.window // 2), valid)

    pairs = shape.tokens * shape.window * shape.tokens
    return Case(run, rows=64, few=few, useful=4 * shape.width * pairs)


def _shared_prefix_attention(
    shape: Shape, frames: int, candidates: int, least_saved: float | None = None, dtype: torch.dtype = torch.bfloat16
) -> Case:
    """The first step of planning: candidates have a common history, of `frames`, and no frames of their own yet."""
    frame = 2 * shape.tokens * shape.kv_heads * shape.dim * dtype.itemsize  # bytes, keys and values

    def run(rows: int) -> None:
        valid = torch.zeros(1, shape.window, dtype=torch.bool)
        prefix_valid = torch.ones(rows, frames, dtype=torch.bool)
        past = [torch.randn(rows, shape.kv_heads, frames * shape.tokens, shape.dim, dtype=dtype) for _ in range(2)]
        new = _new_frame(shape, rows * candidates, dtype)
        torch.ops.worldmodel.shared_prefix_attention(*new, torch.tensor(0), valid, *past, prefix_valid)

    return Case(
        run,
        rows=8,
        few=1,
        useful=4 * shape.width * candidates * shape.tokens**2 * (frames + 1),
        idle=candidates * (shape.window - 1) * frame,
        shared=(candidates - 1) * frames * frame,
        least_saved=least_saved,
    )


TINY, SMALL, BASE, LARGE = SHAPES.values()
CASES: dict[str, Case] = {
    "lambda_return, float32": _lambda_return(15, torch.float32),
    "lambda_return, bfloat16": _lambda_return(16, torch.bfloat16),
    "residual_norm, small, float32": _residual_norm(SMALL.width, FRAMES * SMALL.tokens, 4, torch.float32),
    "residual_norm, large, bfloat16": _residual_norm(LARGE.width, FRAMES * LARGE.tokens, 1),
    "residual_norm, adaptive, bfloat16": _adaptive_norm(1024, 64),
    "residual_norm, gated, bfloat16": _gated_norm(BASE.width, 64),
    "axial_attention, tiny, time of 32, bfloat16": _axial_attention(TINY, "time", 32, 8),
    "axial_attention, base, time of 16, bfloat16": _axial_attention(BASE, "time", FRAMES, 2),
    "axial_attention, base, time of 64, bfloat16": _axial_attention(BASE, "time", 64, 1),
    "axial_attention, large, space of 16, float32": _axial_attention(LARGE, "space", 4, 1, torch.float32),
    "axial_attention, small, time of 32, float32": _axial_attention(SMALL, "time", 32, 8, torch.float32),
    "block_causal_attention, tiny, 16 keys, bfloat16": _block_causal_attention(TINY, FRAMES, 2),
    "block_causal_attention, base, 64 keys, bfloat16": _block_causal_attention(BASE, FRAMES, 1),
    "block_causal_attention, large, 256 keys, bfloat16": _block_causal_attention(LARGE, FRAMES, 1),
    "block_causal_attention, small, 16 keys, float32": _block_causal_attention(SMALL, FRAMES, 2, torch.float32),
    "block_causal_attention, base, 128 keys, float32": _block_causal_attention(BASE, 32, 1, torch.float32),
    "block_causal_attention, wide heads, 64 keys, bfloat16": _block_causal_attention(WIDE_HEADS, FRAMES, 1),
    "block_causal_attention, wide heads, 128 keys, bfloat16": _block_causal_attention(WIDE_HEADS, 32, 1),
    "block_causal_attention, wide heads, 16 keys, float32": _block_causal_attention(
        replace(WIDE_HEADS, tokens=1), FRAMES, 2, torch.float32
    ),
    "block_causal_attention, wide heads, 128 keys, float32": _block_causal_attention(WIDE_HEADS, 32, 1, torch.float32),
    "decode_attention, tiny, bfloat16": _decode_attention(TINY, 4),
    "decode_attention, base, bfloat16": _decode_attention(BASE, 2),
    "decode_attention, large, float32": _decode_attention(LARGE, 1, torch.float32),
    "shared_prefix_attention, tiny, bfloat16": _shared_prefix_attention(TINY, 7, 64),
    "shared_prefix_attention, base, 64 frames, bfloat16": _shared_prefix_attention(BASE, 64, 20, 3.0),
    "shared_prefix_attention, large, bfloat16": _shared_prefix_attention(LARGE, 15, 6),
    "shared_prefix_attention, small, float32": _shared_prefix_attention(SMALL, 15, 40, None, torch.float32),
}
"""Of each operation whatever its tiles and number of warps depend on."""
