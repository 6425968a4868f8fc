"""Number formats that numpy lacks, in the formats that it has: bfloat16 as 16-bit integers, TF32 as float32."""

from __future__ import annotations

import numpy as np

BFLOAT16_NAN = np.uint16(0x7FC0)


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """float32, exactly."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_bfloat16(numbers: np.ndarray, nearest: bool = True) -> np.ndarray:
    """bfloat16's bits: to the nearest, ties to even; or towards zero."""
    numbers = np.ascontiguousarray(numbers, np.float32)
    bits = numbers.view(np.uint32)
    if nearest:
        bits = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return np.where(np.isnan(numbers), BFLOAT16_NAN, (bits >> np.uint32(16)).astype(np.uint16))


def to_tf32(numbers: np.ndarray) -> np.ndarray:
    """What a tensor core makes of float32: ten bits of fraction."""
    bits = np.ascontiguousarray(numbers, np.float32).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)
