"""Kernels run in Triton's interpreter, made strict: correct bfloat16, and errors for what a GPU would let pass."""

import importlib.util

import pytest

if importlib.util.find_spec("triton") is None:  # there are no wheels for this system
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(autouse=True)
def counters():
    """What the test's kernels read, wrote and multiplied."""
    pytest.importorskip("triton")  # a file that was named is not ignored
    from strict_interpreter import strict

    with strict() as counted:
        yield counted
