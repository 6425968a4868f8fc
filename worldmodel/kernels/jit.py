"""Triton kernels beside plain torch in one file, without importing triton until one is launched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

Launcher = Callable[["Kernel", tuple, tuple, dict], None]


class Kernel:
    """What `@triton.jit` would make of a function, made when it is first needed.

    The function's file imports `triton.language as tl` for type checkers alone (with `from __future__ import
    annotations`); the first use of any kernel of the file puts the module there, and `@triton.jit` functions in the
    place of the file's other kernels, which may be called from this one.
    """

    def __init__(self, function: FunctionType):
        self.function = function
        self.__name__, self.__doc__ = function.__name__, function.__doc__
        self._jit: Any = None

    @property
    def jit(self) -> Any:
        """The `triton.JITFunction`, or the interpreter's where TRITON_INTERPRET=1."""
        if self._jit is None:
            import triton

            names = self.function.__globals__
            names["tl"] = triton.language
            parts = {name: value for name, value in names.items() if isinstance(value, Part)}
            for name, part in parts.items():
                names[name] = triton.jit(part.function)
            self._jit = triton.jit(self.function)
        return self._jit

    def launch(self, grid: tuple[int, ...], *args: Any, **options: Any) -> None:
        """Run on `grid`; `options` are constexpr arguments, `num_warps` and `num_stages`."""
        _launchers[-1](self, grid, args, options)


class Part:
    """A function that kernels of the same file call, replaced by its `@triton.jit` form with the first of them."""

    def __init__(self, function: FunctionType):
        self.function = function


def kernel(function: FunctionType) -> Kernel:
    """Decorator: `function` is a Triton kernel, to be launched with `.launch(grid, ...)`."""
    return Kernel(function)


def part(function: FunctionType) -> Part:
    """Decorator: `function` is called from Triton kernels of its own file."""
    return Part(function)


@contextmanager
def launching_with(launcher: Launcher) -> Iterator[None]:
    """Within, `launcher(kernel, grid, args, options)` takes the place of a launch: to compile without a GPU, to count."""
    _launchers.append(launcher)
    try:
        yield
    finally:
        _launchers.pop()


def _launch(kernel: Kernel, grid: tuple, args: tuple, options: dict) -> None:
    kernel.jit[grid](*args, **options)


_launchers: list[Launcher] = [_launch]
