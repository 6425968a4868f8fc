"""Which implementation runs where: Triton's kernels on GPUs that have what they need, plain torch everywhere else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from worldmodel.kernels import choose, chosen, dispatch
from worldmodel.kernels.dispatch import accumulator, compiling_for, dot_precision, for_architecture, resolve
from worldmodel.kernels.jit import kernel, launching_with, part
from worldmodel.kernels.lambda_return import lambda_return, lambda_return_forward

ROOT = Path(__file__).parents[3]


@pytest.fixture
def gpu(monkeypatch):
    """A GPU for tensors without contents: it can be asked what it is, and nothing runs on it."""

    def pretend(capability: tuple[int, int], *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index=None: capability)
        with FakeTensorMode():
            return torch.empty(shape, dtype=dtype, device="cuda")

    monkeypatch.delenv("TRITON_INTERPRET")
    return pretend


@pytest.fixture
def without_triton(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)


def operations(function, *inputs) -> set[str]:
    return {str(node.target) for node in make_fx(function)(*inputs).graph.nodes if node.op == "call_function"}


def test_auto_is_torch_for_what_an_operation_cannot_take(gpu):
    tensor = gpu((9, 0), 3)
    assert resolve(tensor, "auto") == "triton" and resolve(tensor, "auto", able=False) == "torch"


def test_auto_is_torch_on_cpu():
    inputs = [torch.randn(3, n) for n in (4, 4, 5)]
    assert resolve(inputs[0]) == "torch"
    assert not [name for name in operations(lambda *x: lambda_return(*x, 0.9, 0.9), *inputs) if "worldmodel" in name]


@pytest.mark.parametrize(
    "capability, dtype, expected",
    [
        ((8, 0), torch.float32, "triton"),
        ((12, 0), torch.bfloat16, "triton"),
        ((7, 5), torch.float16, "torch"),
        ((9, 0), torch.float64, "torch"),
        ((9, 0), torch.int64, "torch"),
    ],
)
def test_auto_on_a_gpu_is_triton_where_it_can_run(gpu, capability, dtype, expected):
    assert resolve(gpu(capability, 3, dtype=dtype)) == expected


def test_auto_on_a_gpu_is_torch_without_triton(gpu, without_triton):
    assert resolve(gpu((9, 0), 3)) == "torch"


def test_auto_on_a_gpu_is_torch_while_kernels_are_interpreted(gpu, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert resolve(gpu((9, 0), 3)) == "torch"


def test_a_graph_traced_for_a_gpu_has_the_registered_operation(gpu):
    inputs = [gpu((9, 0), 3, n) for n in (4, 4, 5)]
    with inputs[0].fake_mode:
        inputs = [torch.empty(x.shape, device="cuda") for x in inputs]
        assert operations(lambda *x: lambda_return(*x, 0.9, 0.9), *inputs) == {"worldmodel.lambda_return.default"}
        with chosen("torch"):
            names = operations(lambda *x: lambda_return(*x, 0.9, 0.9), *inputs)
    assert names and not [name for name in names if "worldmodel" in name]


def test_there_is_no_other_backend():
    with pytest.raises(ValueError, match="'cuda': expected one of auto, triton, torch, interpret"):
        choose("cuda")


def test_a_choice_that_cannot_be_had_says_what_to_do(monkeypatch):
    with pytest.raises(RuntimeError, match="kernels=triton needs .* TRITON_INTERPRET to be unset"):
        choose("triton")
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(RuntimeError, match="kernels=interpret needs .* TRITON_INTERPRET to be 1, before Python starts"):
        choose("interpret")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="kernels=triton needs a CUDA GPU.*: use kernels=auto"):
        choose("triton")
    assert resolve(torch.zeros(1)) == "torch"  # nothing was chosen


@pytest.mark.parametrize("backend", ["triton", "interpret"])
def test_a_choice_that_needs_triton_says_how_to_install_it(without_triton, backend):
    with pytest.raises(RuntimeError, match=f"kernels={backend} needs triton: pip install triton"):
        choose(backend)


def test_a_tensor_that_the_choice_does_not_fit_says_what_to_do(gpu, monkeypatch):
    with pytest.raises(RuntimeError, match="needs tensors on a CUDA GPU, got cpu: use kernels=auto"):
        resolve(torch.zeros(1), "triton")
    with pytest.raises(RuntimeError, match="got torch.float64: use kernels=auto"):
        resolve(gpu((9, 0), 3, dtype=torch.float64), "triton")
    with pytest.raises(RuntimeError, match=r"compute capability 8.0: use kernels=auto"):
        resolve(gpu((7, 5), 3), "triton")
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET to be 1"):
        resolve(torch.zeros(1), "interpret")
    assert resolve(gpu((9, 0), 3), "triton") == "triton"
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(RuntimeError, match="the tensor is on a GPU: use kernels=triton"):
        resolve(gpu((9, 0), 3), "interpret")
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET to be unset"):
        resolve(gpu((9, 0), 3), "triton")


def test_a_choice_holds_for_as_long_as_it_is_wanted(counters):
    x, inputs = torch.zeros(1), [torch.randn(3, n) for n in (4, 4, 5)]
    with chosen("interpret"):
        assert resolve(x) == "interpret" and resolve(x, "torch") == "torch"
        lambda_return(*inputs, 0.9, 0.9)
        assert counters.launches == 1
        with chosen("torch"):
            assert resolve(x) == "torch" and resolve(x, "interpret") == "interpret"
        with pytest.raises(ValueError), chosen("cuda"):
            pass
        assert resolve(x) == "interpret"
    with pytest.raises(ZeroDivisionError), chosen("interpret"):
        raise ZeroDivisionError
    assert resolve(x) == "torch"
    choose("interpret")
    try:
        assert resolve(x) == "interpret"
    finally:
        choose("auto")


def test_configurations_are_those_of_the_newest_architecture_that_is_not_newer(gpu):
    table, cpu = {80: "ampere", 90: "hopper"}, torch.device("cpu")
    assert for_architecture(table, cpu) == "ampere"
    for number, entry in ((80, "ampere"), (89, "ampere"), (90, "hopper"), (120, "hopper")):
        device = gpu((number // 10, number % 10), 1).device
        assert for_architecture(table, device) == entry
        with compiling_for(number):
            assert for_architecture(table, cpu) == entry
            assert for_architecture({100: "blackwell"}, cpu) == "blackwell"  # better than none
    with compiling_for(90), pytest.raises(ZeroDivisionError), compiling_for(100):
        assert dispatch.architecture(cpu) == 100
        raise ZeroDivisionError
    assert dispatch.architecture(cpu) == 80


def test_sums_are_wider_than_what_is_summed():
    import triton.language as tl

    assert {x: accumulator(x) for x in (torch.float16, torch.bfloat16, torch.float32, torch.float64)} == {
        torch.float16: tl.float32,
        torch.bfloat16: tl.float32,
        torch.float32: tl.float32,
        torch.float64: tl.float64,
    }
    assert [dot_precision(x) for x in (torch.float32, torch.float64, torch.bfloat16)] == ["ieee", "ieee", "tf32"]


@part
def _twice(x):
    return 2 * x


@kernel
def double(X, To, SIZE: tl.constexpr):  # noqa: F821
    """Doubles."""
    place = tl.arange(0, SIZE)  # noqa: F821
    tl.store(To + place, _twice(tl.load(X + place)))  # noqa: F821


def test_kernels_are_made_when_first_launched():
    assert (double.__name__, double.__doc__) == ("double", "Doubles.")
    assert double._jit is None and "tl" not in globals()
    x, to = torch.arange(4.0), torch.zeros(4)
    double.launch((1,), x, to, SIZE=4)
    assert torch.equal(to, 2 * x) and double.jit is double.jit


def test_launches_can_be_taken_over(counters):
    seen, inputs = [], [torch.randn(17, n) for n in (4, 4, 5)]
    with launching_with(lambda *launch: seen.append(launch)):
        with pytest.raises(ZeroDivisionError), launching_with(lambda *launch: 1 / 0):
            lambda_return(*inputs, 0.9, 0.8, backend="interpret")
        lambda_return(*inputs, 0.9, 0.8, backend="interpret")
    assert counters.launches == 0
    ((launched, grid, args, options),) = seen
    assert launched is lambda_return_forward and grid == (2,) and args[4:] == (17, 0.9, 0.8)
    assert torch.equal(args[0], inputs[0]) and (options["H"], options["BLOCK_H"]) == (4, 4)
    lambda_return(*inputs, 0.9, 0.8, backend="interpret")
    assert counters.launches == 1


WITHOUT_TRITON = """
import importlib, pkgutil, sys
import torch
import worldmodel, worldmodel.kernels
from worldmodel import Interface, ModelConfig, WorldModel
from worldmodel.kernels import choose

{before}
for module in pkgutil.iter_modules(worldmodel.kernels.__path__):
    importlib.import_module("worldmodel.kernels." + module.name)
from worldmodel.kernels.lambda_return import lambda_return

inputs = [torch.randn(3, n, requires_grad=True) for n in (4, 4, 5)]
lambda_return(*inputs, 0.9, 0.9).sum().backward()
assert all(x.grad.isfinite().all() for x in inputs)

config = ModelConfig(
    latent_dim=8, width=32, layers=2, heads=2, kv_heads=1, window=4, ensemble=2, head_width=32, channels=(8, 8, 8),
    feature_width=32, open_loop=3, decoder_frames=4,
)
model = WorldModel(Interface(state_dim=5, action_dim=3), config)
action = torch.rand(2, 6, 3) * 2 - 1
losses = model({{
    "state": torch.randn(2, 7, 5), "action": action,
    "previous_action": torch.cat([torch.zeros(2, 1, 3), action], 1), "reward": torch.randn(2, 6),
    "terminated": torch.zeros(2, 6), "valid": torch.ones(2, 6),
}}, torch.Generator().manual_seed(0))
losses["loss"].backward()
assert torch.isfinite(losses["loss"])
{after}
"""
STAYS_OUT = "loaded = [name for name in sys.modules if name.split('.')[0] == 'triton']\nassert not loaded, loaded"
NOT_THERE = """
try:
    choose("interpret")
except RuntimeError as error:
    assert "pip install triton" in str(error), error
else:
    raise AssertionError
"""


@pytest.mark.parametrize(
    "before, after",
    [("", STAYS_OUT), ("sys.modules['triton'] = None", NOT_THERE)],
    ids=["not imported", "not installed"],
)
def test_on_cpu_all_runs_without_triton(before, after):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    program = WITHOUT_TRITON.format(before=before, after=after)
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
