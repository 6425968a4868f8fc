"""Kernels run in Triton's interpreter, made strict: correct bfloat16, and errors for what a GPU would let pass."""

import pytest

pytest.importorskip("triton", reason="kernels cannot be interpreted without triton, which has no wheels here")


@pytest.fixture(autouse=True)
def counters():
    """What the test's kernels read, wrote and multiplied."""
    from strict_interpreter import strict

    with strict() as counted:
        yield counted
