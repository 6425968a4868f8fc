"""Lambda-returns over imagined steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from worldmodel.kernels.dispatch import Backend, accumulator, for_architecture, resolve
from worldmodel.kernels.jit import kernel, part

if TYPE_CHECKING:
    import triton.language as tl

CONFIGS = {80: {"rows": 16, "num_warps": 4}}
"""Rows of a program: at 16 of 16 steps, each of 128 threads holds two neighbouring numbers."""


def lambda_return(
    rewards: Tensor,
    continues: Tensor,
    values: Tensor,
    discount: float,
    trace: float,
    backend: Backend | None = None,
) -> Tensor:
    """Exponentially weighted mixture of n-step returns that stops where episodes end (Sutton & Barto 2018, eq. 12.18;
    Hafner et al. 2023, eq. 7).

    Args:
        rewards: `[R, H]`, of the steps.
        continues: `[R, H]`, probability that the episode goes on after the step.
        values: `[R, H + 1]`, of the states before each step and after the last.
        discount: per step.
        trace: lambda, 0 for one-step targets, 1 for the plain sum with a bootstrap at the end.
        backend: see `worldmodel.kernels.choose`.

    Returns:
        `[R, H]`, the return from each step on.
    """
    if resolve(rewards, backend) == "torch":
        return lambda_return_reference(rewards, continues, values, discount, trace)
    return torch.ops.worldmodel.lambda_return(rewards, continues, values, discount, trace)


def lambda_return_reference(
    rewards: Tensor, continues: Tensor, values: Tensor, discount: float, trace: float
) -> Tensor:
    """The same in plain torch, a loop over the steps."""
    result, returns = values[:, -1], []
    for step in reversed(range(rewards.shape[1])):
        bootstrap = torch.lerp(values[:, step + 1], result, trace)
        result = rewards[:, step] + discount * continues[:, step] * bootstrap
        returns.append(result)
    return torch.stack(returns[::-1], dim=1)


# A linear recurrence, R_t = a_t R_{t+1} + b_t with a_t = discount * continues_t * trace and
# b_t = rewards_t + discount * continues_t * (1 - trace) * values_{t+1}, whose steps compose associatively (Blelloch 1990).


@part
def _compose(later_factor, later_term, factor, term):
    return later_factor * factor, factor * later_term + term


@kernel
def lambda_return_forward(
    Rewards, Continues, Values, Returns, rows, discount, trace,
    H: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_ROWS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    step = tl.arange(0, BLOCK_H)[None, :]
    inside = (row < rows) & (step < H)
    place = row * H + step
    reward = tl.load(Rewards + place, mask=inside, other=0.0).to(ACC)
    going = discount * tl.load(Continues + place, mask=inside, other=0.0).to(ACC)
    value = tl.load(Values + row * (H + 1) + step + 1, mask=inside, other=0.0).to(ACC)
    last = step == H - 1
    factor = going * trace  # of the last step too, which nothing follows: padding is zeros
    term = reward + going * tl.where(last, value, (1 - trace) * value)
    _, result = tl.associative_scan((factor, term), 1, _compose, reverse=True)
    tl.store(Returns + place, result.to(Returns.dtype.element_ty), mask=inside)


@kernel
def lambda_return_backward(
    Gradient, Continues, Values, Returns, RewardsGradient, ContinuesGradient, ValuesGradient, rows, discount, trace,
    H: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_ROWS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """What reaches R_t comes from the loss and from R_{t-1}: the same recurrence forwards in time."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    step = tl.arange(0, BLOCK_H)[None, :]
    inside = (row < rows) & (step < H)
    place = row * H + step
    gradient = tl.load(Gradient + place, mask=inside, other=0.0).to(ACC)
    before = tl.load(Continues + place - 1, mask=inside & (step > 0), other=0.0).to(ACC)
    going = discount * tl.load(Continues + place, mask=inside, other=0.0).to(ACC)
    value = tl.load(Values + row * (H + 1) + step + 1, mask=inside, other=0.0).to(ACC)
    following = tl.load(Returns + place + 1, mask=inside & (step < H - 1), other=0.0).to(ACC)
    _, arriving = tl.associative_scan((discount * before * trace, gradient), 1, _compose)
    last = step == H - 1
    bootstrap = tl.where(last, value, value + trace * (following - value))
    share = tl.where(last, going, (1 - trace) * going)
    tl.store(RewardsGradient + place, arriving.to(RewardsGradient.dtype.element_ty), mask=inside)
    continues_gradient = arriving * discount * bootstrap
    tl.store(ContinuesGradient + place, continues_gradient.to(ContinuesGradient.dtype.element_ty), mask=inside)
    values_gradient = (arriving * share).to(ValuesGradient.dtype.element_ty)
    tl.store(ValuesGradient + row * (H + 1) + step + 1, values_gradient, mask=inside)
    tl.store(ValuesGradient + row * (H + 1) + step, tl.zeros_like(values_gradient), mask=(row < rows) & (step == 0))


def _options(rewards: Tensor) -> tuple[tuple[int], dict]:
    """Grid and constexpr arguments."""
    config = for_architecture(CONFIGS, rewards.device)
    rows, horizon = rewards.shape
    grid = (-(-rows // config["rows"]),)
    return grid, {
        "H": horizon,
        "BLOCK_H": 1 << (horizon - 1).bit_length(),
        "BLOCK_ROWS": config["rows"],
        "ACC": accumulator(rewards.dtype),
        "num_warps": config["num_warps"],
    }


def _forward(rewards: Tensor, continues: Tensor, values: Tensor, discount: float, trace: float) -> Tensor:
    rewards, continues, values = (x.contiguous() for x in (rewards, continues, values))
    returns = torch.empty_like(rewards)
    grid, options = _options(rewards)
    lambda_return_forward.launch(grid, rewards, continues, values, returns, len(rewards), discount, trace, **options)
    return returns


def _backward(
    gradient: Tensor, continues: Tensor, values: Tensor, returns: Tensor, discount: float, trace: float
) -> tuple[Tensor, Tensor, Tensor]:
    inputs = [x.contiguous() for x in (gradient, continues, values, returns)]
    outputs = [torch.empty_like(inputs[which]) for which in (3, 1, 2)]
    grid, options = _options(returns)
    lambda_return_backward.launch(grid, *inputs, *outputs, len(returns), discount, trace, **options)
    return tuple(outputs)


torch.library.define(
    "worldmodel::lambda_return",
    "(Tensor rewards, Tensor continues, Tensor values, float discount, float trace) -> Tensor",
)
torch.library.define(
    "worldmodel::lambda_return_backward",
    "(Tensor gradient, Tensor continues, Tensor values, Tensor returns, float discount, float trace) "
    "-> (Tensor, Tensor, Tensor)",
)
for _device in ("cuda", "cpu"):
    torch.library.impl("worldmodel::lambda_return", _device, _forward)
    torch.library.impl("worldmodel::lambda_return_backward", _device, _backward)


@torch.library.register_fake("worldmodel::lambda_return")
def _(rewards, continues, values, discount, trace):
    return torch.empty_like(rewards, memory_format=torch.contiguous_format)


@torch.library.register_fake("worldmodel::lambda_return_backward")
def _(gradient, continues, values, returns, discount, trace):
    return tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in (returns, continues, values))


def _keep(ctx, inputs, output):
    _, continues, values, ctx.discount, ctx.trace = inputs
    ctx.save_for_backward(continues, values, output)


def _differentiate(ctx, gradient):
    gradients = torch.ops.worldmodel.lambda_return_backward(gradient, *ctx.saved_tensors, ctx.discount, ctx.trace)
    return *gradients, None, None


torch.library.register_autograd("worldmodel::lambda_return", _differentiate, setup_context=_keep)
