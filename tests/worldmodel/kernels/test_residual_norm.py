"""Residual sum and norm by the kernel, against plain torch and against what the model's own layers compute."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from checking import FORMATS, check, relative_error
from strict_interpreter import strict
from torch import nn

from worldmodel.kernels import residual_norm as module
from worldmodel.kernels.residual_norm import residual_norm

OPTIONS = ("residual", "gate", "weight", "scale", "shift")
BLOCK = ("residual", "weight")  # a transformer's
ADAPTIVE = ("scale", "shift")  # the transition's


def call(names, center=False, backend="interpret", eps=None):
    """`residual_norm` as a function of x and of the options that `names` says."""

    def function(x, *options):
        given = dict(zip(names, options, strict=True))
        return residual_norm(x, **given, center=center, eps=eps, backend=backend)

    return function


def inputs(shape, names, dtype=torch.float64, broadcast=None):
    """x of `shape`, and the options: weights of its last size, the others of its shape or what `broadcast` says."""
    generator = torch.Generator().manual_seed(len(names) + sum(shape))
    shapes = [shape] + [shape[-1:] if name == "weight" else (broadcast or {}).get(name, shape) for name in names]
    return [torch.randn(size, generator=generator, dtype=torch.float64).to(dtype) for size in shapes]


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize(
    ("shape", "names", "center"),
    [
        ((17, 96), BLOCK, False),
        ((3, 7, 192), BLOCK, False),
        ((1, 8), (), False),
        ((5, 513), ("weight",), True),
        ((37, 128), ADAPTIVE, True),
        ((2, 3, 7, 48), OPTIONS, False),
        ((9, 1280), OPTIONS, True),
        ((3, 2048), ("gate", "weight"), False),
    ],
)
def test_it_is_as_exact_as_torch(shape, names, center, dtype):
    check(call(names, center), call(names, center, "torch"), inputs(shape, names), dtype)


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize(
    "present", list(product([False, True], repeat=5)), ids=lambda present: "".join("01"[x] for x in present)
)
def test_any_of_the_options_may_be_left_out(present, center):
    names = [name for name, have in zip(OPTIONS, present, strict=True) if have]
    check(call(names, center), call(names, center, "torch"), inputs((5, 20), names), torch.float64)


@pytest.mark.parametrize("center", [False, True])
def test_its_derivative_is_that_of_finite_differences(center):
    tensors = [x.requires_grad_() for x in inputs((2, 4), OPTIONS)]
    assert torch.autograd.gradcheck(call(OPTIONS, center), tensors)


def test_options_broadcast_to_x():
    shapes = {"residual": (3, 24), "gate": (24,), "scale": (2, 5, 1, 24), "shift": (2, 1, 1, 1)}
    for dtype in (torch.float64, torch.bfloat16):
        check(call(OPTIONS), call(OPTIONS, backend="torch"), inputs((2, 5, 3, 24), OPTIONS, broadcast=shapes), dtype)


def test_what_repeats_row_by_row_is_not_copied():
    frame = torch.randn(2, 5, 1, 24)
    rows, stride, repeats = module._broadcast(frame.expand(2, 5, 3, 24))
    assert (rows.data_ptr(), rows.shape, stride, repeats) == (frame.data_ptr(), (10, 24), 24, 3)
    wide = torch.randn(6, 64)[:, 3:27]
    rows, stride, repeats = module._broadcast(wide)
    assert (rows.data_ptr(), stride, repeats) == (wide.data_ptr(), 64, 1)


def test_strides_change_nothing():
    names = (*BLOCK, *ADAPTIVE)
    plain = inputs((6, 24), names, torch.float32)
    wide = [torch.randn(6, 64) for _ in plain]
    views = [w[:, 3:27] for w in wide]  # rows that are not aligned
    turned = [x.t().contiguous().t() if x.dim() == 2 else x for x in plain]  # numbers of a row that lie apart
    views[2] = torch.randn(48)[::2]
    for view, x in zip(views, plain, strict=True):
        view.copy_(x)
    expected = results(plain, names)
    for other in (views, turned):
        assert all(map(torch.equal, results(other, names), expected))


def results(tensors, names, center=False):
    """Outputs, and gradients of `tensors` for the sum of the outputs' squares."""
    leaves = [x.detach().requires_grad_() for x in tensors]
    outputs = call(names, center)(*leaves)
    return [*outputs, *torch.autograd.grad(sum(x.float().square().sum() for x in outputs), leaves)]


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_torch_path_is_what_the_models_layers_compute(dtype):
    x, residual, scale, shift = inputs((4, 7, 32), ("residual", *ADAPTIVE), dtype)
    norm = nn.RMSNorm(32).to(dtype)
    torch.nn.init.normal_(norm.weight)
    total, normed = residual_norm(x, residual, weight=norm.weight)
    assert torch.equal(total, residual + x) and torch.equal(normed, norm(residual + x))
    same, normed = residual_norm(x, scale=scale, shift=shift, center=True)
    assert same is x and torch.equal(normed, torch.addcmul(shift, F.layer_norm(x, x.shape[-1:]), 1 + scale))


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize("center", [False, True])
def test_its_eps_is_that_of_torchs_layers(dtype, center):
    x = 1e-4 * inputs((4, 32), ())[0]  # eps is more than the mean square
    x = x.to(dtype)
    layer = F.layer_norm(x, (32,)) if center else nn.RMSNorm(32, elementwise_affine=False)(x)
    assert layer.abs().max() < 1
    assert relative_error(residual_norm(x, center=center, backend="interpret")[1], layer) < 4e-3


def test_without_a_residual_total_is_x_and_not_written(counters):
    x = inputs((16, 64), (), torch.float32)[0]
    total, normed = residual_norm(x, backend="interpret")
    assert total is x
    assert counters.store_bytes == normed.numel() * 4 and counters.load_bytes == x.numel() * 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_total_is_rounded_before_it_is_normalised(dtype):
    x, residual = inputs((9, 40), ("residual",), dtype)
    total, normed = residual_norm(x, residual, backend="interpret")
    assert torch.equal(total, x + residual)
    assert torch.equal(normed, residual_norm(total, backend="interpret")[1])


def test_formats_may_differ_as_in_torch():
    x, residual, weight, scale = inputs((5, 24), ("residual", "weight", "scale"), torch.bfloat16)
    tensors = [x, residual.float(), weight.float(), scale]
    got, expected = (
        function(*(y.detach().requires_grad_() for y in tensors))
        for function in (call(("residual", "weight", "scale")), call(("residual", "weight", "scale"), backend="torch"))
    )
    assert [y.dtype for y in got] == [y.dtype for y in expected] == [torch.float32, torch.float32]
    assert relative_error(got[1], expected[1]) < 1e-2  # torch rounds 1 + scale
    leaves = [y.requires_grad_() for y in tensors]
    gradients = torch.autograd.grad(call(("residual", "weight", "scale"))(*leaves)[1].square().sum(), leaves)
    assert [y.dtype for y in gradients] == [y.dtype for y in tensors]


@pytest.mark.parametrize(("names", "which"), [(BLOCK, 0), (OPTIONS, 0), (BLOCK, 1), (OPTIONS, 1), ((), 1)])
def test_one_output_alone_has_a_gradient(names, which):
    tensors = [x.requires_grad_() for x in inputs((5, 16), names)]
    got, expected = (
        torch.autograd.grad(call(names, backend=backend)(*tensors)[which].sin().sum(), tensors, allow_unused=True)
        for backend in ("interpret", "torch")
    )
    for a, b in zip(got, expected, strict=True):
        assert torch.allclose(a, torch.zeros_like(a) if b is None else b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("center", [False, True])
def test_rows_that_are_zero_or_large_stay_finite(center):
    x = torch.zeros(10, 40, dtype=torch.float16)
    x[1] = 6e4  # its square is no float16
    x[2] = 6e-8
    tensors = [x.requires_grad_(), torch.ones(40, dtype=torch.float16).requires_grad_()]
    normed = call(("weight",), center)(*tensors)[1]
    assert normed.isfinite().all() and normed[1].sub(0 if center else 1).abs().max() < 1e-3
    assert all(x.isfinite().all() for x in torch.autograd.grad(normed.sum(), tensors))


def test_rows_past_the_last_do_not_reach_the_weights_gradient():
    tensors = [x.requires_grad_() for x in inputs((5, 20), ("weight",))]
    got, expected = (
        torch.autograd.grad(call(("weight",), backend=backend, eps=0.0)(*tensors)[1].sin().sum(), tensors)
        for backend in ("interpret", "torch")
    )
    assert all(relative_error(a, b) < 1e-12 for a, b in zip(got, expected, strict=True))


def test_rows_beyond_those_of_all_programs_are_shared_out(monkeypatch, counters):
    monkeypatch.setattr(module, "BACKWARD_CONFIGS", {80: {**module.BACKWARD_CONFIGS[80], "programs": 3}})
    tensors = [x.requires_grad_() for x in inputs((77, 300), BLOCK, torch.float32)]
    outputs = call(BLOCK)(*tensors)
    counters.reset()
    torch.autograd.grad(outputs, tensors, [torch.ones_like(x) for x in outputs])
    assert counters.programs == 3
    check(call(BLOCK), call(BLOCK, backend="torch"), tensors, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_rows_results_do_not_depend_on_other_rows_nor_on_order(dtype):
    tensors = inputs((29, 72), OPTIONS, dtype)
    whole = results(tensors, OPTIONS, center=True)
    with strict(order=1):
        assert all(map(torch.equal, whole, results(tensors, OPTIONS, center=True)))
    some = results([x if x.dim() == 1 else x[11:14] for x in tensors], OPTIONS, center=True)
    assert all(torch.equal(x[11:14], y) for x, y in zip(whole, some, strict=True) if x.dim() > 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("names", "center", "read", "written"),  # backward: matrices, not counting the outputs' gradients
    [(BLOCK, False, 1, 1), (("weight",), False, 1, 1), (ADAPTIVE, True, 2, 2), (OPTIONS, True, 4, 4)],
)
def test_it_asks_for_few_bytes_more_than_it_must(names, center, read, written, dtype, counters):
    tensors = [x.requires_grad_() for x in inputs((64, 384), names, dtype)]
    outputs = [x for x in call(names, center)(*tensors) if x is not tensors[0]]
    size = tensors[0].numel() * dtype.itemsize
    weight = "weight" in names and 384 * dtype.itemsize
    forward = size * (len(tensors) - ("weight" in names) + len(outputs)) + weight
    assert counters.launches == 1
    assert counters.load_bytes + counters.store_bytes <= 1.07 * forward
    upstream = [torch.ones_like(x) for x in outputs]
    counters.reset()
    torch.autograd.grad(outputs, tensors, upstream)
    backward = size * (len(outputs) + read + written) + 2 * weight
    assert counters.launches == 1
    assert counters.load_bytes + counters.store_bytes <= 1.13 * backward


def test_no_rows():
    tensors = [torch.randn(0, 24).requires_grad_() for _ in range(2)] + [torch.randn(24).requires_grad_()]
    outputs = call(BLOCK)(*tensors)
    assert [x.shape for x in outputs] == [(0, 24)] * 2
    x, residual, weight = torch.autograd.grad(sum(y.sum() for y in outputs), tensors)
    assert x.shape == residual.shape == (0, 24) and torch.equal(weight, torch.zeros(24))


def test_sizes_that_do_not_fit_raise():
    for name, shape in (("weight", 23), ("residual", (5, 23)), ("scale", (4, 24)), ("shift", (2, 5, 24))):
        with pytest.raises(RuntimeError, match="expand"):
            call((name,))(torch.randn(5, 24), torch.randn(shape))


@pytest.mark.parametrize(("names", "center"), [(BLOCK, False), (OPTIONS, True), (ADAPTIVE, True), ((), False)])
def test_the_operation_is_registered_as_torch_wants_it(names, center):
    x, *options = (y.requires_grad_() for y in inputs((5, 16), names, torch.float32))
    given = dict(zip(names, options, strict=True))
    arguments = (x, *(given.get(name) for name in OPTIONS), center, 1e-5)
    torch.library.opcheck(torch.ops.worldmodel.residual_norm.default, arguments)


def test_it_compiles_without_a_break_for_any_number_of_rows():
    def loss(x, residual, weight, scale, shift):
        total, normed = residual_norm(x, residual, None, weight, scale, shift, backend="interpret")
        return (total.sin() * normed).sum()

    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
    for rows in (5, 9, 17):
        tensors = [x.requires_grad_() for x in inputs((rows, 3, 20), (*BLOCK, *ADAPTIVE), torch.float32)]
        got, expected = (torch.autograd.grad(function(*tensors), tensors) for function in (compiled, loss))
        assert all(relative_error(a, b) < 1e-6 for a, b in zip(got, expected, strict=True))


def test_inductor_compiles_it():
    compiled = torch.compile(call(BLOCK), fullgraph=True)
    tensors = inputs((5, 20), BLOCK, torch.float32)
    assert all(map(torch.equal, compiled(*tensors), call(BLOCK)(*tensors)))


def test_it_is_exported_for_any_number_of_rows():
    class Norm(nn.Module):
        def forward(self, x, residual, weight):
            return residual_norm(x, residual, weight=weight, backend="interpret")

    tensors = inputs((5, 3, 20), BLOCK, torch.float32)
    batch = torch.export.Dim("batch", min=2, max=64)
    shapes = ({0: batch}, {0: batch}, None)
    exported = torch.export.export(Norm(), tuple(tensors), dynamic_shapes=shapes)
    assert any(node.target is torch.ops.worldmodel.residual_norm.default for node in exported.graph.nodes)
    tensors = inputs((11, 3, 20), BLOCK, torch.float32)
    assert all(map(torch.equal, exported.module()(*tensors), call(BLOCK)(*tensors)))
