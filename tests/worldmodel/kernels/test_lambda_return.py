"""Lambda-returns by a scan: what the loop over the steps gives, in every format, for any horizon and any batch."""

from functools import partial

import pytest
import torch
from checking import FORMATS, check
from strict_interpreter import strict
from torch import Tensor

from worldmodel.kernels.lambda_return import lambda_return, lambda_return_reference

DISCOUNT, TRACE = 0.997, 0.95
operation = partial(lambda_return, discount=DISCOUNT, trace=TRACE, backend="interpret")
reference = partial(lambda_return_reference, discount=DISCOUNT, trace=TRACE)


def steps(rows: int, horizon: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Tensor]:
    """Rewards, continues and values; some episodes end, and some may."""
    generator = torch.Generator().manual_seed(seed)
    rewards, values = (torch.randn(rows, n, generator=generator) for n in (horizon, horizon + 1))
    continues = torch.rand(rows, horizon, generator=generator)
    continues = torch.where(continues < 0.2, 0.0, torch.where(continues > 0.4, 1.0, continues))
    return [x.to(dtype) for x in (rewards, continues, values)]


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("rows, horizon", [(1, 1), (17, 1), (7, 15), (33, 16), (3, 50)])
def test_returns_and_gradients_agree_with_the_loop(rows, horizon, dtype):
    check(operation, reference, steps(rows, horizon), dtype)


@pytest.mark.parametrize("trace", [0.0, 1.0])
def test_one_step_targets_and_plain_sums_are_its_ends(trace):
    rewards, continues, values = steps(5, 7)
    returns = lambda_return(rewards, continues, values, 0.9, trace, backend="interpret")
    going, expected = 0.9 * continues, []
    for step in range(7):
        end = step + 1 if trace == 0 else 7
        weights = torch.cat([torch.ones(5, 1), going[:, step:end].cumprod(1)], 1)
        expected.append((weights * torch.cat([rewards[:, step:end], values[:, end, None]], 1)).sum(1))
    torch.testing.assert_close(returns, torch.stack(expected, 1))


def test_strides_are_the_callers():
    spread = [torch.stack([x, x + 1], 2).mT[:, 0] for x in steps(7, 9)]  # every second element
    columns = [x.t().contiguous().t() for x in steps(7, 9)]
    assert not any(x.is_contiguous() for x in spread[:2] + columns)
    for inputs in (spread, columns, [columns[0], spread[1], columns[2]]):
        check(operation, reference, inputs, torch.float32)


def test_gradients_are_numerical_derivatives():
    inputs = [x.requires_grad_() for x in steps(2, 3)]
    assert torch.autograd.gradcheck(operation, inputs)


@pytest.mark.parametrize("dtype", FORMATS)
def test_a_rows_bits_depend_on_no_other_row_and_no_order(dtype):
    inputs = steps(37, 15, dtype)
    whole = results(inputs)
    for first, last in ((0, 1), (5, 22), (30, 37)):
        part = results([x[first:last] for x in inputs])
        assert all(torch.equal(x[first:last], y) for x, y in zip(whole, part, strict=True))
    for order in range(2):
        with strict(order=order):
            assert all(torch.equal(x, y) for x, y in zip(whole, results(inputs), strict=True))


def results(inputs: list[Tensor]) -> list[Tensor]:
    """Returns, and gradients of the sum of their squares."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    returns = operation(*leaves)
    return [returns.detach(), *torch.autograd.grad(returns, leaves, 2 * returns.detach())]


def test_it_reads_and_writes_little_more_than_it_must(counters):
    rows, horizon = 33, 15
    inputs = [x.requires_grad_() for x in steps(rows, horizon, torch.bfloat16)]
    returns = operation(*inputs)
    elements = rows * horizon
    assert (counters.load_bytes, counters.store_bytes) == (2 * 3 * elements, 2 * elements)
    assert (counters.launches, counters.programs) == (1, 3)
    counters.reset()
    torch.autograd.grad(returns, inputs, torch.ones_like(returns))
    assert counters.launches == 1
    compulsory = 2 * (4 * elements - rows + 3 * elements + rows)  # the first step's own return is not needed
    assert counters.store_bytes == 2 * (3 * elements + rows)
    assert counters.load_bytes + counters.store_bytes <= 1.3 * compulsory


def test_the_operations_are_registered_as_they_should_be():
    inputs = [x.requires_grad_() for x in steps(3, 5, torch.float32)]
    torch.library.opcheck(torch.ops.worldmodel.lambda_return.default, (*inputs, DISCOUNT, TRACE))
    gradient, continues, values = steps(3, 5, torch.float32, seed=1)
    torch.library.opcheck(
        torch.ops.worldmodel.lambda_return_backward.default, (gradient, continues, values, gradient, DISCOUNT, TRACE)
    )


def test_compiled_once_in_one_graph_for_any_size():
    def loss(*inputs):
        return (operation(*inputs) * 2).square().sum()

    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
    for stance, rows, horizon in (("default", 5, 7), ("fail_on_recompile", 3, 12), ("fail_on_recompile", 9, 30)):
        inputs = [x.requires_grad_() for x in steps(rows, horizon, torch.float32)]
        with torch.compiler.set_stance(stance):
            got = compiled(*inputs)
        expected = loss(*inputs)
        assert torch.equal(got, expected)
        gradients = (torch.autograd.grad(x, inputs) for x in (got, expected))
        assert all(torch.equal(x, y) for x, y in zip(*gradients, strict=True))


def test_exported_with_free_sizes():
    class Returns(torch.nn.Module):
        def forward(self, rewards, continues, values):
            return operation(rewards, continues, values)

    rows, horizon = torch.export.Dim("rows", max=64), torch.export.Dim("horizon", max=64)
    shapes = ({0: rows, 1: horizon}, {0: rows, 1: horizon}, {0: rows, 1: horizon + 1})
    program = torch.export.export(Returns(), tuple(steps(5, 7, torch.float32)), dynamic_shapes=shapes)
    assert "worldmodel.lambda_return.default" in str(program.graph)
    inputs = steps(9, 12, torch.float32)
    assert torch.equal(program.module()(*inputs), operation(*inputs))
