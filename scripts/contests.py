"""What `scripts.benchmark_gpu` measures: the operations at the presets' shapes, and what others offer for the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from worldmodel.kernels.attention import rotary_phases
from worldmodel.kernels.axial_attention import axial_attention
from worldmodel.kernels.block_causal_attention import block_causal_attention
from worldmodel.kernels.cases import SHAPES, Shape
from worldmodel.kernels.decode_attention import decode_attention
from worldmodel.kernels.lambda_return import lambda_return
from worldmodel.kernels.residual_norm import residual_norm
from worldmodel.kernels.shared_prefix_attention import shared_prefix_attention


@dataclass
class Contest:
    """One operation at one shape.

    Attributes:
        name: of the operation and the shape.
        operation: our public function, which runs on what `chosen` says.
        inputs: makes its arguments for a device, a format and so many rows.
        rows: as many as are timed.
        backward: whether it has one.
        fixed: places of the arguments that have no gradient, whatever they are.
        flop: additions and multiplications of a row, forward.
        others: by name, functions of the same arguments that others offer for it.
    """

    name: str
    operation: Callable
    inputs: Callable[[torch.device, torch.dtype, int], tuple]
    rows: int
    backward: bool = True
    fixed: tuple[int, ...] = ()
    flop: int = 0
    others: dict[str, Callable] = field(default_factory=dict)


def lambda_returns() -> Contest:
    def inputs(device, dtype, rows):
        return (*(torch.rand(rows, 15 + more, device=device, dtype=dtype) for more in (0, 0, 1)), 0.997, 0.95)

    return Contest("lambda_return of 15 steps", lambda_return, inputs, 4096)


def residual_norms(name: str, shape: Shape) -> Contest:
    def inputs(device, dtype, rows):
        x, residual = (torch.randn(rows, 16 * shape.tokens, shape.width, device=device, dtype=dtype) for _ in range(2))
        return x, residual, None, torch.ones(shape.width, device=device, dtype=dtype)

    return Contest(f"residual_norm at {name}", residual_norm, inputs, 256 // shape.tokens)


def axial(name: str, shape: Shape, frames: int = 16) -> Contest:
    width = (shape.heads + 2 * shape.kv_heads) * shape.dim

    def inputs(device, dtype, rows):
        packed = torch.randn(rows, frames, 1, width, device=device, dtype=dtype)
        scale = torch.full((shape.heads + shape.kv_heads,), 0.5, device=device)
        phases = rotary_phases(torch.arange(frames, device=device), shape.dim)
        return packed, scale, phases, shape.heads, shape.kv_heads, "time", True, shape.window

    flop = 4 * frames * frames * shape.width
    return Contest(f"axial_attention at {name}, {frames} frames", axial_attention, inputs, 512, fixed=(2,), flop=flop)


def block_causal(name: str, shape: Shape, frames: int = 32) -> Contest:
    length = frames * shape.tokens
    age = torch.arange(length)[:, None] // shape.tokens - torch.arange(length) // shape.tokens
    pairs = int(((age >= 0) & (age < shape.window)).sum())

    def inputs(device, dtype, rows):
        query, key, value = (
            torch.randn(rows, length, heads, shape.dim, device=device, dtype=dtype).transpose(1, 2)
            for heads in (shape.heads, shape.kv_heads, shape.kv_heads)
        )
        return query * shape.dim**-0.5, key, value, shape.tokens, shape.window

    def dense(query, key, value, tokens, window):
        mask = ((age >= 0) & (age < window)).to(query.device)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=1.0, enable_gqa=True)

    def flex(query, key, value, tokens, window):
        return _flex_attention(shape.tokens, shape.window, length, query.device.type)(query, key, value)

    others = {"scaled_dot_product_attention": dense, "FlexAttention": flex}
    claim = f"block_causal_attention at {name}, {frames} frames of {shape.tokens}"
    return Contest(claim, block_causal_attention, inputs, 32, flop=4 * pairs * shape.width, others=others)


_FLEX: dict = {}


def _flex_attention(tokens: int, window: int, length: int, device: str) -> Callable:
    """Compiled once for each mask."""
    key = (tokens, window, length, device)
    if key not in _FLEX:
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        def visible(row, head, query, other):
            age = query // tokens - other // tokens
            return (age >= 0) & (age < window)

        mask = create_block_mask(visible, None, None, length, length, device=device)
        compiled = torch.compile(flex_attention, dynamic=False)
        _FLEX[key] = lambda query, key, value: compiled(query, key, value, block_mask=mask, scale=1.0, enable_gqa=True)
    return _FLEX[key]


def _cache_inputs(shape: Shape, device, dtype, rows: int, frames: int) -> tuple:
    query, key, value, keys, values = (
        torch.randn(rows, heads, entries * shape.tokens, shape.dim, device=device, dtype=dtype)
        for heads, entries in (
            (shape.heads, 1),
            (shape.kv_heads, 1),
            (shape.kv_heads, 1),
            *[(shape.kv_heads, frames)] * 2,
        )
    )
    valid = torch.ones(1, frames, dtype=torch.bool, device=device)
    return query * shape.dim**-0.5, key, value, keys, values, torch.ones((), dtype=torch.long, device=device), valid


def decode(name: str, shape: Shape) -> Contest:
    def inputs(device, dtype, rows):
        return _cache_inputs(shape, device, dtype, rows, shape.window)

    def dense(query, key, value, keys, values, place, valid):
        entries = place * shape.tokens + torch.arange(shape.tokens, device=query.device)
        keys, values = keys.index_copy_(2, entries, key), values.index_copy_(2, entries, value)
        mask = valid.repeat_interleave(shape.tokens, 1)[:, None, None]
        return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=1.0, enable_gqa=True)

    others = {"scaled_dot_product_attention": dense}
    return Contest(f"decode_attention at {name}", decode_attention, inputs, 1024, backward=False, others=others)


def shared_prefix(name: str, shape: Shape, candidates: int = 256, steps: int = 5) -> Contest:
    def inputs(device, dtype, rows):
        own = _cache_inputs(shape, device, dtype, rows * candidates, steps)
        size = (shape.window - 1) * shape.tokens
        past = [torch.randn(rows, shape.kv_heads, size, shape.dim, device=device, dtype=dtype) for _ in range(2)]
        return *own, *past, torch.ones(rows, shape.window - 1, dtype=torch.bool, device=device)

    def repeated(query, key, value, keys, values, place, valid, past_keys, past_values, past_valid):
        keys, values = (
            torch.cat([past.repeat_interleave(candidates, 0), own], 2)
            for past, own in ((past_keys, keys), (past_values, values))
        )
        return F.scaled_dot_product_attention(query, keys, values, scale=1.0, enable_gqa=True)

    others = {"repeated, scaled_dot_product_attention": repeated}
    claim = f"shared_prefix_attention at {name}, {candidates} candidates"
    return Contest(claim, shared_prefix_attention, inputs, 8, backward=False, others=others)


CONTESTS = [
    lambda_returns(),
    *(residual_norms(name, shape) for name, shape in SHAPES.items()),
    *(axial(name, SHAPES[name]) for name in ("tiny", "small")),
    *(block_causal(name, SHAPES[name]) for name in ("base", "large")),
    *(decode(name, SHAPES[name]) for name in ("small", "base", "large")),
    *(shared_prefix(name, SHAPES[name]) for name in ("tiny", "small", "base")),
]
