"""How a kernel is held against its reference: in each number format, against float64, forward and every gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

FORMATS = (torch.float32, torch.float16, torch.bfloat16)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 6e-3}
"""Relative Frobenius error against float64 on the same rounded inputs."""


def relative_error(got: Tensor, expected: Tensor) -> float:
    """|got - expected| / |expected| by the Frobenius norm, in float64."""
    difference = (got.double() - expected.double()).norm()
    return (difference / expected.double().norm().clamp_min(1e-30)).item()


def check(
    operation: Callable,
    reference: Callable,
    inputs: Sequence[Tensor],
    dtype: torch.dtype,
    gradients: bool = True,
    tolerance: float | None = None,
) -> None:
    """Assert that `operation(*inputs)` gives what `reference(*inputs)` gives in float64: every output, and the gradient
    of every input for random gradients of the outputs. The error may be `tolerance`, and no more than twice the
    reference's own in the same format where that is larger.

    Args:
        operation, reference: of the inputs; they return a tensor or a tuple of them.
        inputs: float64, rounded to `dtype` here (which keeps their strides); others, like masks, are passed on.
        dtype: the format.
        gradients: False for operations without a backward.
        tolerance: `TOLERANCE` of the format by default.
    """
    tolerance = TOLERANCE[dtype] if tolerance is None else tolerance
    rounded = [_round(x, dtype) for x in inputs]
    results = {}
    for name, function, kind in (
        ("kernel", operation, dtype),
        ("exact", reference, torch.float64),
        ("torch", reference, dtype),
    ):
        results[name] = _run(function, [_round(x, kind) for x in rounded], gradients, kind)
    for place, (got, exact, usual) in enumerate(
        zip(results["kernel"], results["exact"], results["torch"], strict=True)
    ):
        assert got.dtype == usual.dtype and got.shape == exact.shape
        assert torch.isfinite(got).all(), f"result {place} has numbers that are not finite"
        error, own = relative_error(got, exact), relative_error(usual, exact)
        assert error <= max(tolerance, 2 * own), f"result {place}: error {error:.2e}, torch's own {own:.2e}"


def _round(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x


def _run(function: Callable, inputs: list[Tensor], gradients: bool, dtype: torch.dtype) -> list[Tensor]:
    """Outputs, and then the inputs' gradients."""
    leaves = [
        x.detach().requires_grad_(gradients) if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs
    ]
    out = function(*leaves)
    out = list(out) if isinstance(out, tuple) else [out]
    if not gradients:
        return out
    generator = torch.Generator().manual_seed(1)
    upstream = [
        torch.randn(x.shape, generator=generator, dtype=torch.float64).to(torch.bfloat16).to(dtype) for x in out
    ]
    wanted = [x for x in leaves if isinstance(x, Tensor) and x.requires_grad]
    return [x.detach() for x in out] + list(torch.autograd.grad(out, wanted, upstream))


def far_apart(x: Tensor) -> Tensor:
    """A copy of `x` whose rows lie so far from each other that the last one's offset does not fit an int32. What lies
    between them is never touched, and takes no memory."""
    step = -(-(2**31) // (len(x) - 1)) // 16 * 16 + 16
    storage = torch.UntypedStorage((step * (len(x) - 1) + x[0].numel()) * x.element_size())
    spread = torch.empty(0, dtype=x.dtype).set_(storage, 0, x.shape, (step, *x[0].contiguous().stride()))
    return spread.copy_(x)
