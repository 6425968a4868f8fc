"""What every test runs under: one thread, headless GL, and this folder on the path."""

import os
import sys
from pathlib import Path

# One thread, in child processes too: two OpenMP threads beside another busy process can be three times slower than one.
# By the environment, so that tests of parts without torch don't import it.
os.environ["OMP_NUM_THREADS"] = "1"
# There is no GPU to test kernels on: Triton's interpreter runs them. It has to be chosen before triton is imported.
os.environ["TRITON_INTERPRET"] = "1"

_TESTS = Path(__file__).parent
for folder in (_TESTS, _TESTS.parent):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

import pytest

import envs  # noqa: F401  chooses the GL backend, and loads triton before the first GL context


@pytest.fixture(autouse=True)
def exact_matmuls():
    """Training lets float32 matmuls run in bfloat16 units, for the whole process; a test starts without that."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_float32_matmul_precision("highest")
