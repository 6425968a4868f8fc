"""Axial attention by its kernels equals plain torch: both axes, every format, odd sizes, windows, strides, gradients."""

from __future__ import annotations

import pytest
import torch
from checking import FORMATS, check
from strict_interpreter import strict

from worldmodel.kernels.attention import rotary_phases
from worldmodel.kernels.axial_attention import axial_attention, axial_attention_reference


def inputs(
    rows: int, frames: int, tokens: int, heads: int, kv_heads: int, dim: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """A narrow view of a wider projection, and scales."""
    generator = torch.Generator().manual_seed(frames + dim)
    columns = (heads + 2 * kv_heads) * dim
    packed = torch.randn(rows, frames, tokens, columns + 24, generator=generator, dtype=torch.float64)[..., :columns]
    return packed, torch.rand(heads + kv_heads, generator=generator, dtype=torch.float64)


def both(axis, length, dim, heads, kv_heads, causal, window=None, valid=None):
    """The operation and its reference, of `packed` and `scale`."""
    phases = rotary_phases(torch.arange(length), dim)
    rest = heads, kv_heads, axis, causal, window, valid
    return (
        lambda packed, scale: axial_attention(packed, scale.float(), phases, *rest, backend="interpret"),
        lambda packed, scale: axial_attention_reference(packed, scale.to(torch.promote_types(packed.dtype, torch.float32)), phases, *rest),
    )  # fmt: skip


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize(
    "axis,frames,tokens,heads,kv_heads,dim,window",
    [
        ("time", 1, 1, 1, 1, 16, None),
        ("time", 7, 2, 4, 2, 32, 3),
        ("time", 17, 1, 4, 1, 48, None),
        ("space", 2, 7, 2, 2, 64, None),
        ("space", 3, 17, 3, 1, 16, None),
    ],
)
def test_outputs_and_gradients(axis, frames, tokens, heads, kv_heads, dim, window, dtype):
    length = frames if axis == "time" else tokens
    operation, reference = both(axis, length, dim, heads, kv_heads, axis == "time", window)
    check(operation, reference, inputs(2, frames, tokens, heads, kv_heads, dim), dtype)


def test_frames_that_are_not_valid_are_seen_by_none():
    valid = torch.tensor([[True, True, False, True, True, True], [True, False, True, True, False, True]])
    operation, reference = both("time", 6, 32, 2, 1, True, None, valid)
    check(operation, reference, inputs(2, 6, 3, 2, 1, 32), torch.float32)


def test_bits_do_not_depend_on_the_batch_or_the_order_of_programs():
    packed, scale = (x.float() for x in inputs(3, 9, 2, 4, 2, 32))
    operation, _ = both("time", 9, 32, 4, 2, True, 4)
    whole = operation(packed, scale)
    with strict(order=1):
        shuffled = operation(packed, scale)
    alone = operation(packed[1:2], scale)
    for a, b, c in zip(whole, shuffled, alone, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a[1:2], c)


def test_the_operation_is_registered_as_torch_wants_it():
    packed, scale = (x.float() for x in inputs(1, 5, 1, 2, 1, 16))
    arguments = packed, scale, rotary_phases(torch.arange(5), 16), 2, 1, "time", True, 3, None
    torch.library.opcheck(torch.ops.worldmodel.axial_attention.default, arguments)
