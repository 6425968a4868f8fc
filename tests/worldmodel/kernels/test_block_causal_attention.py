"""Block-causal attention by its kernels equals plain torch: every format, odd sizes, grouped heads, windows, gradients."""

from __future__ import annotations

import pytest
import torch
from checking import FORMATS, check
from strict_interpreter import strict

from worldmodel.kernels.block_causal_attention import block_causal_attention, block_causal_reference


def inputs(rows: int, heads: int, kv_heads: int, queries: int, keys: int, dim: int) -> list[torch.Tensor]:
    """Transposed views, as a model has them."""
    generator = torch.Generator().manual_seed(queries + dim)
    shapes = (queries, heads), (keys, kv_heads), (keys, kv_heads)
    query, key, value = (
        torch.randn(rows, length, count, dim, generator=generator, dtype=torch.float64).transpose(1, 2)
        for length, count in shapes
    )
    return [query * dim**-0.5, key, value]


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize(
    "heads,kv_heads,frames,tokens,dim,window",
    [
        *(
            (1, 1, 1, 7, 16, None),
            (2, 1, 5, 7, 32, None),
            (4, 2, 3, 17, 48, 3),
            (3, 1, 9, 4, 16, 2),
            (2, 2, 6, 7, 64, 3),
        ),
        (2, 1, 9, 17, 16, 3),  # too long for a backward of a single tile
    ],
)
def test_outputs_and_gradients(heads, kv_heads, frames, tokens, dim, window, dtype):
    length = frames * tokens
    check(
        lambda q, k, v: block_causal_attention(q, k, v, tokens, window, backend="interpret"),
        lambda q, k, v: block_causal_reference(q, k, v, tokens, window),
        inputs(2, heads, kv_heads, length, length, dim),
        dtype,
    )


def test_last_frames_over_a_longer_past_of_which_some_is_not_seen():
    valid = torch.tensor([[False, True, True, True, True], [True, True, False, True, True]])
    check(
        lambda q, k, v: block_causal_attention(q, k, v, 3, None, valid, backend="interpret"),
        lambda q, k, v: block_causal_reference(q, k, v, 3, None, valid),
        inputs(2, 4, 2, 6, 15, 32),
        torch.float32,
    )


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_rows_that_see_nothing_give_numbers_and_take_no_part(dtype):
    valid = torch.tensor([[False, False, True]])  # nothing is seen by the first two frames
    leaves = [x.to(dtype).requires_grad_() for x in inputs(1, 2, 1, 12, 12, 16)]
    attended = block_causal_attention(*leaves, 4, None, valid, backend="interpret")
    gradients = torch.autograd.grad(attended[:, :, 8:].sum(), leaves)
    assert all(x.isfinite().all() for x in (attended, *gradients))
    assert all(not x[:, :, :8].any() for x in gradients)


def test_gradcheck():
    def loss(query, key, value):
        return block_causal_attention(query, key, value, 2, 2, backend="interpret")

    assert torch.autograd.gradcheck(loss, [x.requires_grad_() for x in inputs(1, 2, 1, 6, 6, 16)], fast_mode=True)


def test_bits_do_not_depend_on_the_batch_or_the_order_of_programs():
    query, key, value = (x.float() for x in inputs(3, 2, 1, 20, 20, 32))
    whole = block_causal_attention(query, key, value, 4, 3, backend="interpret")
    with strict(order=1):
        shuffled = block_causal_attention(query, key, value, 4, 3, backend="interpret")
    alone = block_causal_attention(query[1:2], key[1:2], value[1:2], 4, 3, backend="interpret")
    assert torch.equal(whole, shuffled)
    assert torch.equal(whole[1:2], alone)


def test_the_operation_is_registered_as_torch_wants_it():
    query, key, value = (x.float() for x in inputs(1, 2, 1, 8, 8, 16))
    torch.library.opcheck(torch.ops.worldmodel.block_causal_attention.default, (query, key, value, 2, 3, None))


def test_it_compiles_as_one_graph_for_any_batch_and_is_exported():
    def attend(query, key, value):
        return block_causal_attention(query, key, value, 2, 3, backend="interpret") * 2

    compiled = torch.compile(attend, fullgraph=True, dynamic=True, backend="aot_eager")
    for rows in (2, 3):
        query, key, value = (x.float() for x in inputs(rows, 2, 1, 8, 8, 16))
        expected = 2 * block_causal_reference(query, key, value, 2, 3)
        assert torch.allclose(compiled(query, key, value), expected, atol=1e-5)

    class Layer(torch.nn.Module):
        def forward(self, query, key, value):
            return attend(query, key, value)

    batch = torch.export.Dim("batch", min=2, max=64)
    example = tuple(x.float() for x in inputs(2, 2, 1, 8, 8, 16))
    exported = torch.export.export(Layer(), example, dynamic_shapes=({0: batch},) * 3)
    query, key, value = (x.float() for x in inputs(5, 2, 1, 8, 8, 16))
    expected = 2 * block_causal_reference(query, key, value, 2, 3)
    assert torch.allclose(exported.module()(query, key, value), expected, atol=1e-5)


def test_frames_outside_the_window_are_neither_read_nor_multiplied(counters):
    query, key, value = (x.to(torch.bfloat16) for x in inputs(1, 1, 1, 512, 512, 64))
    pairs = 16 * 16 * sum(range(1, 33))
    block_causal_attention(query, key, value, 16, backend="interpret")
    assert counters.flops <= 1.15 * 4 * pairs * 64
    everything = counters.load_bytes
    counters.reset()
    block_causal_attention(query, key, value, 16, 4, backend="interpret")
    # Tiles of 64 positions read 15 of the 36 pairs of tiles that the whole past has, and every query once.
    assert counters.load_bytes < 0.5 * everything
