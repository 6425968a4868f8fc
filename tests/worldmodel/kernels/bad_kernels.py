"""Compiles a product of matrices well and badly, and prints what `facts` says of each as JSON."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import torch

from worldmodel.kernels.jit import kernel
from worldmodel.kernels.machine_code import compiling, facts

if TYPE_CHECKING:
    import triton.language as tl


@kernel
def product(
    A, B, Product, stride, inner,
    BLOCK: tl.constexpr, BLOCK_INNER: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    row, column, step = tl.arange(0, BLOCK)[:, None], tl.arange(0, BLOCK)[None, :], tl.arange(0, BLOCK_INNER)
    total = tl.zeros([BLOCK, BLOCK], tl.float32)
    for start in range(0, inner, BLOCK_INNER):
        a = tl.load(A + row * stride + start + step[None, :])
        b = tl.load(B + (start + step[:, None]) * stride + column)
        total = tl.dot(a, b, total, input_precision=PRECISION)
    tl.store(Product + row * stride + column, total.to(Product.dtype.element_ty))


def launch(
    block: int = 64, warps: int = 4, stride: int = 1024, dtype: torch.dtype = torch.bfloat16, precision: str = "tf32"
) -> None:
    tensors = [torch.empty(stride, stride, dtype=dtype) for _ in range(3)]
    product.launch((1,), *tensors, stride, 1024, BLOCK=block, BLOCK_INNER=32, PRECISION=precision, num_warps=warps)


LAUNCHES = {
    "good": {},
    "too large a tile": {"block": 128, "warps": 2},
    "rows that are not aligned": {"stride": 1023},
    "float32 without tensor cores": {"dtype": torch.float32, "precision": "ieee"},
}

if __name__ == "__main__":
    from triton.runtime import driver

    before = dict(vars(driver))
    with compiling(int(sys.argv[1])) as compiled:
        for options in LAUNCHES.values():
            launch(**options)
    found = dict(zip(LAUNCHES, facts(compiled), strict=True))
    print(json.dumps({"facts": found, "driver_restored": dict(vars(driver)) == before}))
