"""Which implementation of an operation runs: its Triton kernel, or plain torch."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor

Backend = Literal["auto", "triton", "torch", "interpret"]
_FORMATS = (torch.float16, torch.bfloat16, torch.float32)
_LOWEST_CAPABILITY = 8  # bfloat16 in tensor cores, asynchronous copies
_chosen: Backend = "auto"
_architecture: int | None = None
Entry = TypeVar("Entry")
Function = TypeVar("Function", bound=Callable)


def choose(backend: Backend) -> None:
    """Set what every operation of this process uses that is not told otherwise.

    Args:
        backend: `auto`, Triton on CUDA where it can run and torch elsewhere; `triton`; `torch`; `interpret`, Triton's
            kernels in its interpreter on CPU, which is slow and for tests.

    Raises:
        ValueError: there is no such backend.
        RuntimeError: it cannot be had here, with what to do about it.
    """
    global _chosen
    if backend not in get_args(Backend):
        raise ValueError(f"kernels={backend!r}: expected one of {', '.join(get_args(Backend))}")
    if backend in ("triton", "interpret"):
        _require_triton(backend)
    if backend == "triton" and not torch.cuda.is_available():
        raise RuntimeError("kernels=triton needs a CUDA GPU, and there is none here: use kernels=auto")
    _chosen = backend


@contextmanager
def chosen(backend: Backend) -> Iterator[None]:
    """`choose` for a while."""
    global _chosen
    before = _chosen
    choose(backend)
    try:
        yield
    finally:
        _chosen = before


def resolve(tensor: Tensor, backend: Backend | None = None, able: bool = True) -> Backend:
    """`triton`, `torch` or `interpret`, for an operation on `tensor`.

    An explicit choice that cannot be had raises; `auto` falls back, also where the operation says that its kernels are
    not `able` to take what it was given: it raises itself where they were chosen explicitly. It is made in Python before the operation, so that
    a compiler sees plain torch on CPU, and nothing imports triton there.

    Raises:
        RuntimeError: `backend`, or what `choose` set, cannot run on this tensor.
    """
    backend = backend or _chosen
    if backend == "torch" or (backend == "auto" and not (tensor.is_cuda and able)):
        return "torch"
    if backend == "auto":
        return "triton" if tensor.dtype in _FORMATS and _device_runs_triton(tensor.device.index or 0) else "torch"
    if backend == "interpret":
        if tensor.is_cuda:
            raise RuntimeError("kernels=interpret runs on CPU, the tensor is on a GPU: use kernels=triton")
    elif not tensor.is_cuda:
        raise RuntimeError(f"kernels=triton needs tensors on a CUDA GPU, got {tensor.device}: use kernels=auto")
    elif tensor.dtype not in _FORMATS:
        raise RuntimeError(f"kernels=triton takes float16, bfloat16 and float32, got {tensor.dtype}: use kernels=auto")
    elif _capability(tensor.device.index or 0) < 10 * _LOWEST_CAPABILITY:
        raise RuntimeError(f"kernels=triton needs a GPU of compute capability {_LOWEST_CAPABILITY}.0: use kernels=auto")
    _require_triton(backend)
    return backend


def architecture(device: torch.device) -> int:
    """The GPU's compute capability as one number (90 for 9.0); on CPU, where kernels are interpreted, the lowest."""
    if _architecture is not None:
        return _architecture
    if device.type != "cuda":
        return 10 * _LOWEST_CAPABILITY
    return _capability(device.index or 0)


@contextmanager
def compiling_for(number: int) -> Iterator[None]:
    """Launches within are laid out for the architecture `number` (80, 90, 100), whatever the device."""
    global _architecture
    before, _architecture = _architecture, number
    try:
        yield
    finally:
        _architecture = before


def for_architecture(table: Mapping[int, Entry], device: torch.device) -> Entry:
    """The entry of the newest architecture in `table` that is not newer than the device's."""
    have = architecture(device)
    return table[max((number for number in table if number <= have), default=min(table))]


def _constant_in_graphs(function: Function) -> Function:
    """What `torch.compiler.assume_constant_result` does, which would import torch._dynamo, and with it triton."""
    function._dynamo_marked_constant = True
    return function


@_constant_in_graphs
def _device_runs_triton(index: int) -> bool:
    has_triton = importlib.util.find_spec("triton") is not None
    return has_triton and not _interpreting() and _capability(index) >= 10 * _LOWEST_CAPABILITY


@_constant_in_graphs
def _capability(index: int) -> int:
    major, minor = torch.cuda.get_device_capability(index)
    return 10 * major + minor


def _interpreting() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


@_constant_in_graphs
def _require_triton(backend: str) -> None:
    if importlib.util.find_spec("triton") is None:
        raise RuntimeError(f"kernels={backend} needs triton: pip install triton (Linux), or use kernels=auto")
    if (backend == "interpret") != _interpreting():
        value = "1, before Python starts" if backend == "interpret" else "unset: it replaces compiled kernels"
        raise RuntimeError(f"kernels={backend} needs the environment variable TRITON_INTERPRET to be {value}")


def accumulator(dtype: torch.dtype) -> Any:
    """The Triton type to keep sums of `dtype` in: float32; float64 for float64, which only the interpreter gets."""
    import triton.language as tl

    return tl.float64 if dtype == torch.float64 else tl.float32


def dot_precision(dtype: torch.dtype) -> str:
    """How `tl.dot` multiplies: float32 exactly (no TF32, which would give what the torch path does not)."""
    return "ieee" if dtype in (torch.float32, torch.float64) else "tf32"
