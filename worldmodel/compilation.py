"""`torch.compile` for small functions that are called very often, where the machine has a compiler."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from functools import partial
from itertools import count
from types import FunctionType, MethodType

import torch
from torch import Tensor

from worldmodel.precision import native_bfloat16

_COUNT = count()


class Compiled:
    """A function, compiled when it is first called; the function itself where that fails, then or for a later shape.

    On CPU a step of imagination is hundreds of small operations, and calling them costs as much as doing them: fused by
    the compiler they take about half the time. It needs a C++ compiler (`worldmodel doctor` looks for one), 10 to 40
    seconds at the first call, and a few in later processes.

    Args:
        function: of tensors, dataclasses of tensors, and modules.
        varying: picks from the arguments the tensors whose first axis will have several lengths, none of them 1; what it
            does not pick is compiled for each shape anew.
    """

    def __init__(self, function: Callable, varying: Callable[..., Iterable[Tensor]] | None = None):
        self.function, self.varying = function, varying
        torch.compiler.assume_constant_result(native_bfloat16)  # a question to the processor, which can't be traced
        # The modules are this function's own, and nobody replaces their parts: that need not be asked at every call.
        options = {"guard_filter_fn": torch.compiler.skip_guard_on_all_nn_modules_unsafe}
        self.fast = torch.compile(_apart(function), fullgraph=True, options=options)

    def __call__(self, *args):
        """What the function returns."""
        if self.varying:
            for tensor in self.varying(*args):
                torch._dynamo.maybe_mark_dynamic(tensor, 0)
        try:
            return self.fast(*args)
        except (torch._dynamo.exc.TorchDynamoException, torch._inductor.exc.CppCompileError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            warnings.warn(f"not compiled, which is slower and otherwise the same: {reason}", stacklevel=2)
            self.fast = self.function
            return self.function(*args)


def _apart(function: Callable) -> Callable:
    """The same method or function by a code of its own, under which the compiler keeps what it made: two models never
    meet in one cache."""
    if isinstance(function, partial):
        return partial(_apart(function.func), *function.args, **function.keywords)
    inner = getattr(function, "__func__", function)
    name = f"{inner.__name__}_{next(_COUNT)}"
    copy = FunctionType(
        inner.__code__.replace(co_name=name), inner.__globals__, name, inner.__defaults__, inner.__closure__
    )
    return MethodType(copy, function.__self__) if inner is not function else copy
