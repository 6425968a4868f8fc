"""Number formats: which is native on the device at hand, and where the model uses it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


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


def configure(threads: int | None = None) -> None:
    """Set the process up once: matmuls of float32 through bfloat16 or TF32 units, and the number of threads.

    `medium` doubles float32 matmuls where bfloat16 is native; what is trained stays float32."""
    torch.set_float32_matmul_precision("medium")
    if threads:
        torch.set_num_threads(threads)
