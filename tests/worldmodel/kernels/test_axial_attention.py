"""Axial attention by its kernels: what plain torch gives, on both axes, in every format, for odd sizes, any strides."""

from __future__ import annotations

import pytest
import torch
from checking import FORMATS, check, far_apart
from strict_interpreter import strict
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from worldmodel.kernels import dispatch
from worldmodel.kernels.attention import rotary_phases, rotate
from worldmodel.kernels.axial_attention import axial_attention, axial_attention_reference


def tensors(
    rows: int, frames: int, tokens: int, heads: int, kv_heads: int, dim: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Projections, a narrow view of a wider layer's, and scales, those of the queries over sqrt(d)."""
    generator = torch.Generator().manual_seed(frames + dim)
    columns = (heads + 2 * kv_heads) * dim
    packed = torch.randn(rows, frames, tokens, columns + 24, generator=generator)[..., :columns]
    scale = 0.5 + torch.rand(heads + kv_heads, generator=generator)
    scale[:heads] *= dim**-0.5
    return packed.to(dtype), scale.to(dtype)


def both(length, dim, heads, kv_heads, axis, causal, window=None, valid=None):
    """The operation and its reference, of `packed` and `scale`, which comes in the format of `packed`."""
    phases = rotary_phases(torch.arange(length) + 2, dim)
    rest = phases, heads, kv_heads, axis, causal, window, valid

    def operation(packed, scale):
        return axial_attention(packed, _exact(scale), *rest, backend="interpret")

    def reference(packed, scale):
        return axial_attention_reference(packed, _exact(scale), *rest)

    return operation, reference


def _exact(scale: Tensor) -> Tensor:
    return scale.to(torch.promote_types(scale.dtype, torch.float32))


def results(operation, packed: Tensor, scale: Tensor) -> list[Tensor]:
    """Both outputs, and the gradients of the sum of their squares."""
    leaves = [packed.detach().requires_grad_(), scale.detach().requires_grad_()]
    outputs = operation(*leaves)
    return [x.detach() for x in (*outputs, *torch.autograd.grad(outputs, leaves, [2 * x.detach() for x in outputs]))]


def agree(some: list[Tensor], others: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(some, others, strict=True))


def test_plain_torch_is_attention_over_normalised_and_rotated_heads():
    packed, scale = tensors(2, 5, 3, 4, 2, 8)
    phases = rotary_phases(torch.arange(5), 8)
    valid = torch.rand(2, 5, generator=torch.Generator().manual_seed(0)) > 0.4
    attended, keys = axial_attention_reference(packed, scale, phases, 4, 2, "time", True, 3, valid)
    for row, token in ((0, 0), (1, 2)):
        x = packed[row, :, token].unflatten(-1, (8, 8)).transpose(0, 1)  # [heads, T, d]
        turned = [
            rotate(scale[head] * x[head] / (x[head].square().mean(-1, keepdim=True) + 2**-23).sqrt(), phases.double())
            for head in range(6)
        ]
        assert torch.allclose(keys[row, :, token], torch.stack(turned[4:], 1))
        for head in range(4):
            for place in range(5):
                frames = [past for past in range(max(0, place - 2), place + 1) if valid[row, past]]
                if frames:
                    weights = (turned[4 + head // 2][frames] @ turned[head][place]).softmax(0)
                    expected = weights @ x[6 + head // 2][frames]
                    assert torch.allclose(attended[row, place, token, 8 * head : 8 * head + 8], expected)


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize(
    "axis, rows, frames, tokens, heads, kv_heads, dim, window",
    [
        ("time", 1, 1, 1, 1, 1, 16, None),
        ("time", 2, 7, 2, 4, 2, 32, 3),
        ("time", 1, 17, 1, 3, 1, 48, None),
        ("time", 3, 16, 1, 2, 2, 8, 5),
        ("space", 2, 2, 7, 2, 2, 64, None),
        ("space", 1, 3, 17, 6, 2, 8, None),
    ],
)
def test_outputs_and_gradients_agree_with_plain_torch(axis, rows, frames, tokens, heads, kv_heads, dim, window, dtype):
    length = frames if axis == "time" else tokens
    operation, reference = both(length, dim, heads, kv_heads, axis, axis == "time", window)
    check(operation, reference, tensors(rows, frames, tokens, heads, kv_heads, dim), dtype)


@pytest.mark.parametrize("dtype, length", [(torch.float32, 32), (torch.bfloat16, 64)])
def test_as_long_as_they_may_be(dtype, length):
    operation, reference = both(length, 64, 2, 1, "time", True, 20)
    check(operation, reference, tensors(1, length, 1, 2, 1, 64), dtype)


@pytest.mark.parametrize("causal, window", [(False, 3), (True, None), (False, None)])
def test_causal_and_window_are_independent_and_for_both_axes(causal, window):
    for axis, sizes in (("time", (5, 2)), ("space", (2, 5))):
        operation, reference = both(5, 16, 2, 1, axis, causal, window)
        check(operation, reference, tensors(1, *sizes, 2, 1, 16), torch.float32)


@pytest.mark.parametrize("heads", [1, 2])
def test_frames_that_are_not_valid_are_seen_by_none(heads):
    valid = torch.tensor([[True, True, False, True, True, True], [True, False, True, True, False, True]])
    operation, reference = both(6, 32, heads, 1, "time", True, None, valid.t().contiguous().t())
    inputs = tensors(2, 6, 3, heads, 1, 32)
    check(operation, reference, inputs, torch.float32)
    other = inputs[0].clone()
    other.view(2, 6, 3, heads + 2, 32)[:, :, :, heads:][~valid] = 1e4
    queries = valid[:, :, None, None]
    before, after = (operation(packed, inputs[1])[0] for packed in (inputs[0], other))
    assert torch.equal(before * queries, after * queries)


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_a_position_that_sees_nothing_gives_numbers(dtype):
    valid = torch.tensor([[False, False, True, True], [False, False, False, False]])
    packed, scale = tensors(2, 4, 1, 2, 1, 16, dtype)
    for function in both(4, 16, 2, 1, "time", True, 2, valid):
        assert all(torch.isfinite(x).all() for x in results(function, packed, scale))


def test_strides_are_the_callers():
    operation, reference = both(6, 16, 2, 1, "time", True, 4)
    packed, scale = tensors(2, 6, 2, 2, 1, 16)
    for order in ((0, 2, 1, 3), (1, 0, 2, 3), (0, 1, 3, 2)):  # the last one's columns are apart, and have to be copied
        turned = packed.permute(order).contiguous().permute(order)
        assert not turned.is_contiguous()
        check(operation, reference, [turned, scale], torch.float32)
    expected = results(operation, packed, scale)
    leaf = packed.detach().clone().requires_grad_()
    attended, keys = operation(leaf, scale)
    wide = torch.cat([2 * attended.detach(), attended.detach()], -1)  # gradients of a part of something wider
    upstream = wide[..., : attended.shape[-1]], 2 * keys.detach().transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(torch.autograd.grad((attended, keys), leaf, upstream)[0], expected[2])
    everything = torch.cat([packed, torch.randn(2, 6, 2, 8, dtype=torch.float64)], -1)
    assert agree(list(operation(everything, scale)), expected[:2])


def test_offsets_beyond_an_int32():
    for axis, where in (("time", 1), ("space", 2), ("time", 0)):
        packed, scale = tensors(2, 3, 3, 2, 1, 16, torch.float16)
        operation, _ = both(3, 16, 2, 1, axis, True)
        apart = far_apart(packed.transpose(0, where)).transpose(0, where)
        leaves = [x.detach().requires_grad_() for x in (packed, apart)]
        outputs = [operation(x, scale)[0] for x in leaves]
        upstream = outputs[0].detach()
        upstream = upstream, far_apart(upstream.transpose(0, where)).transpose(0, where)
        gradients = [torch.autograd.grad(*of)[0] for of in zip(outputs, leaves, upstream, strict=True)]
        assert torch.equal(*outputs) and torch.equal(*gradients)


def test_gradients_are_numerical_derivatives():
    valid = torch.tensor([[True, False, True]])
    for axis, sizes, heads, window, frames in (("time", (3, 1), 1, 2, valid), ("space", (1, 3), 2, None, None)):
        operation, _ = both(3, 4, heads, 1, axis, axis == "time", window, frames)
        inputs = [x.contiguous().requires_grad_() for x in tensors(1, *sizes, heads, 1, 4)]
        # Every derivative; or, where a key has two queries, along random directions, which is quicker.
        assert torch.autograd.gradcheck(operation, inputs, fast_mode=heads > 1)


@pytest.mark.parametrize("which", [0, 1])
def test_gradients_where_one_output_alone_is_used(which):
    operation, reference = both(5, 16, 2, 1, "time", True)
    inputs = tensors(2, 5, 1, 2, 1, 16)
    check(lambda *x: operation(*x)[which], lambda *x: reference(*x)[which], inputs, torch.float32)


@pytest.mark.parametrize(
    "heads, kv_heads, dtype", [*((4, 2, dtype) for dtype in FORMATS), (1, 1, torch.float32)], ids=str
)
def test_a_sequences_bits_depend_on_no_other_and_no_order(heads, kv_heads, dtype):
    packed, scale = tensors(3, 9, 1, heads, kv_heads, 32, dtype)
    operation, _ = both(9, 32, heads, kv_heads, "time", True, 4)
    whole = results(operation, packed, scale)
    for first, last in ((0, 1), (1, 3)):
        part = results(operation, packed[first:last], scale)
        assert agree([x[first:last] for x in whole[:3]], part[:3])
    with strict(order=1):
        assert agree(results(operation, packed, scale), whole)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("heads, kv_heads", [(12, 4), (8, 4), (3, 3)])
def test_it_reads_and_writes_little_more_than_it_must(counters, heads, kv_heads, dtype):
    packed, scale = (x.requires_grad_() for x in tensors(2, 16, 1, heads, kv_heads, 64, dtype))
    operation, _ = both(16, 64, heads, kv_heads, "time", True, 8)
    outputs = operation(packed, scale)
    written = sum(x.nbytes for x in outputs)
    small = 4 * (heads + kv_heads) + 4 * 16 * 2 * 64  # scales and phases
    assert (counters.launches, counters.store_bytes) == (1, written)
    assert counters.load_bytes + counters.store_bytes <= 1.3 * (packed.nbytes + written + small)
    counters.reset()
    torch.autograd.grad(outputs, (packed, scale), [torch.ones_like(x) for x in outputs])
    assert counters.launches == 1
    assert counters.store_bytes == packed.nbytes + 2 * 4 * (heads + kv_heads)
    assert counters.load_bytes + counters.store_bytes <= 1.3 * (2 * packed.nbytes + written + small)


def test_products_of_matrices_are_of_what_it_multiplies(counters):
    packed, scale = tensors(1, 16, 1, 4, 1, 64, torch.bfloat16)
    both(16, 64, 4, 1, "time", False)[0](packed, scale)
    assert counters.flops == 2 * 2 * 4 * 16 * 16 * 64  # scores and averages


def test_the_operations_are_registered_as_they_should_be():
    packed, scale = (x.float() for x in tensors(2, 5, 1, 2, 1, 16))
    rest = rotary_phases(torch.arange(5), 16), 2, 1, "time", True, 3, torch.ones(2, 5, dtype=torch.bool)
    leaves = packed.detach().requires_grad_(), scale.requires_grad_()
    torch.library.opcheck(torch.ops.worldmodel.axial_attention.default, (*leaves, *rest))
    gradient, scale = torch.randn(2, 5, 1, 32), scale.detach()
    backward = torch.ops.worldmodel.axial_attention_backward.default
    for keys_gradient in (None, torch.randn(2, 5, 1, 1, 16)):
        torch.library.opcheck(backward, (gradient, keys_gradient, packed, scale, *rest))


def test_compiled_once_in_one_graph_for_any_size():
    def loss(packed, scale, phases):
        attended, keys = axial_attention(packed, scale, phases, 2, 1, "time", True, 4, backend="interpret")
        return (attended * 2).square().sum() + keys.square().sum()

    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
    for stance, rows, frames in (("default", 5, 6), ("fail_on_recompile", 4, 7), ("fail_on_recompile", 3, 17)):
        packed, scale = (x.float() for x in tensors(rows, frames, 2, 2, 1, 16))
        inputs = packed.contiguous().requires_grad_(), scale.requires_grad_()
        phases = rotary_phases(torch.arange(frames), 16)
        with torch.compiler.set_stance(stance):
            got = compiled(*inputs, phases)
        expected = loss(*inputs, phases)
        assert torch.equal(got, expected)
        gradients = (torch.autograd.grad(x, inputs) for x in (got, expected))
        assert agree(*gradients)


def test_exported_with_a_free_batch():
    class Attention(torch.nn.Module):
        def forward(self, packed, scale, phases):
            return axial_attention(packed, scale, phases, 2, 1, "space", False, backend="interpret")

    phases = rotary_phases(torch.arange(5), 16)
    packed, scale = (x.float() for x in tensors(3, 2, 5, 2, 1, 16))
    shapes = {0: torch.export.Dim("rows", max=64)}, None, None
    program = torch.export.export(Attention(), (packed, scale, phases), dynamic_shapes=shapes)
    assert "worldmodel.axial_attention.default" in str(program.graph)
    packed, scale = (x.float() for x in tensors(7, 2, 5, 2, 1, 16))
    assert agree(list(program.module()(packed, scale, phases)), list(Attention()(packed, scale, phases)))


@pytest.mark.parametrize(
    "length, dim, dtype", [(65, 16, torch.float16), (33, 16, torch.float32), (4, 80, torch.float16)]
)
def test_what_the_kernels_do_not_take_is_refused_or_left_to_torch(length, dim, dtype, monkeypatch):
    packed, scale = (x.to(dtype) for x in tensors(1, length, 1, 2, 1, dim))
    operation, _ = both(length, dim, 2, 1, "time", True)
    with pytest.raises(ValueError, match="use kernels=auto or kernels=torch"):
        operation(packed, scale)

    def on_a_gpu(length: int, dim: int) -> set[str]:
        with FakeTensorMode():
            packed = torch.empty(1, length, 1, 4 * dim, dtype=dtype, device="cuda")
            rest = torch.empty(3, device="cuda"), torch.empty(length, 2, dim, device="cuda"), 2, 1, "time", True
            graph = make_fx(lambda packed: axial_attention(packed, *rest))(packed).graph
        return {str(node.target) for node in graph.nodes if node.op == "call_function"}

    monkeypatch.setattr(dispatch, "_device_runs_triton", lambda index: True)
    assert "worldmodel.axial_attention.default" in on_a_gpu(4, 16)
    assert "worldmodel.axial_attention.default" not in on_a_gpu(length, dim)


def test_arguments_that_do_not_go_together_are_refused():
    packed, scale = (x.float() for x in tensors(1, 4, 3, 2, 1, 16))
    phases = rotary_phases(torch.arange(4), 16)
    for heads, kv_heads, axis, valid in ((3, 2, "time", None), (2, 2, "time", None), (2, 1, "space", None)):
        with pytest.raises(ValueError, match="do not go with phases"):
            axial_attention(packed, scale, phases, heads, kv_heads, axis, True, valid=valid)
    with pytest.raises(ValueError, match="valid is of frames"):
        axial_attention(packed, scale, phases[:3], 2, 1, "space", True, valid=torch.ones(1, 4, dtype=torch.bool))
