"""Number formats: which is native on the device at hand, and where the model uses it."""

from __future__ import annotations

import copy
import ctypes
import sys
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h


def native_bfloat16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 matrices in hardware; elsewhere on CPU it is slower than float32."""
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def reduced_precision(device: torch.device) -> AbstractContextManager:
    """bfloat16 autocast where it is native, else nothing: for the convolutions, which are most of the cost."""
    if native_bfloat16(device):
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


class _ReducedLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        if self.in_features <= 4:  # of an action: not worth a product of matrices, and a compiler fuses this
            product = sum(x[..., i, None] * self.weight[:, i] for i in range(self.in_features))
        else:
            product = F.linear(x.to(self.weight.dtype), self.weight).to(x.dtype)
        return product if self.bias is None else product + self.bias


def reduced_copy(module: nn.Module) -> nn.Module:
    """A copy for inference whose linear layers multiply in bfloat16 and give what they were given: everything between
    them stays float32. Where bfloat16 is not native, `module` itself."""
    if not native_bfloat16(next(module.parameters()).device):
        return module
    module = copy.deepcopy(module).requires_grad_(False).eval()
    for layer in module.modules():
        if type(layer) is nn.Linear:
            layer.__class__ = _ReducedLinear
            layer.weight.data = layer.weight.to(torch.bfloat16)
    return module


def configure(threads: int | None = None) -> None:
    """Set the process up once: matmuls of float32 through bfloat16 or TF32 units, and the number of threads.

    `medium` doubles float32 matmuls where bfloat16 is native; what is trained stays float32."""
    torch.set_float32_matmul_precision("medium")
    _keep_freed_memory()
    if threads:
        torch.set_num_threads(threads)


def _keep_freed_memory() -> None:
    """Have glibc keep what was freed for the next tensor, instead of giving it back to the kernel and having every page
    of it zeroed again: activations of a few megabytes come and go hundreds of times a second. (What PyTorch's tuning
    guide recommends another allocator for.)"""
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # absent in other C libraries
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_MMAP_THRESHOLD, 32 * 2**20)  # the largest it takes
