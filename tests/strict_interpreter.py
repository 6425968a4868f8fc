"""Triton's interpreter, made strict: correct bfloat16, and errors for what a GPU would let pass in silence.

The stock interpreter cuts bfloat16 off and adds its bits as integers, follows pointers wherever they lead, gives zeros
for masked loads, multiplies exactly where tensor cores round, and runs programs one after another, so that a kernel
whose programs depend on each other looks right. Within `strict()` it does none of it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from typing import Any
from unittest import mock

import numpy as np
import torch
import triton.language as tl
from interpreted_memory import Memory, OutOfBounds, Race, View
from number_formats import BFLOAT16_NAN, from_bfloat16, to_bfloat16, to_tf32
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpreterBuilder, InterpreterOptions, TensorHandle

__all__ = ["Counters", "OutOfBounds", "Race", "strict"]


@dataclass
class Counters:
    """What the launches since the start, or since `reset`, did. Masked elements are not counted; an atomic operation is
    a load and a store."""

    load_bytes: int = 0
    store_bytes: int = 0
    flops: int = 0  # of `tl.dot`: two for each product
    programs: int = 0
    launches: int = 0

    def reset(self) -> None:
        for each in fields(self):
            setattr(self, each.name, 0)


@contextmanager
def strict(
    bounds: bool = True, poison: bool = True, races: bool = True, order: int | None = None
) -> Iterator[Counters]:
    """Patch the interpreter while within. One inside another takes its place, counters included, until it ends.

    Args:
        bounds: every access has to touch elements of the tensor that its pointer came from. A view's elements are its
            own: what lies between them in its storage is outside.
        poison: a masked load without `other` gives NaN (the greatest of integers) where its mask is off, and
            `torch.empty` is full of it.
        races: no program may read or overwrite what another one writes; nor what it stored itself, unless by the same
            block of pointers or after `tl.debug_barrier()`. Elements of one store that meet in one place have to be
            equal.
        order: programs run in an order shuffled by this seed; in the grid's order if None.
    """
    filled, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    with ExitStack() as patches:
        for (owner, name), replacement in _PATCHES.items() if not _rules else ():
            patches.enter_context(mock.patch.object(owner, name, replacement, create=True))
        _rules.append(_Rules(bounds, poison, races, order))
        # The public function would import torch._inductor, which takes seconds.
        torch._C._set_deterministic_algorithms(poison or filled, warn_only=warn_only or not filled)
        try:
            yield _rules[-1].counters
        finally:
            torch._C._set_deterministic_algorithms(filled, warn_only=warn_only)
            _rules.pop()


@dataclass
class _Rules:
    bounds: bool
    poison: bool
    races: bool
    order: int | None
    counters: Counters = field(default_factory=Counters)


@dataclass
class _Launch:
    memory: Memory
    order: np.ndarray | None = None
    patched: set[int] = field(default_factory=set)  # modules
    patches: Any = None  # of the kernel's own module, until the launch ends


_rules: list[_Rules] = []
_launches: list[_Launch] = []


# Launches ----------------------------------------------------------------------------------------------------------


def _call(self, *args, **options):
    """`GridExecutor.__call__`, with the errors of this file instead of InterpreterErrors around them."""
    _rules[-1].counters.launches += 1
    _launches.append(_Launch(Memory(self.fn.__name__)))
    try:
        with np.errstate(all="ignore"):
            return _stock("__call__", interpreter.GridExecutor)(self, *args, **options)
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, (OutOfBounds, Race)):
            cause = cause.__cause__
        if cause is None:
            raise
        raise cause from None
    finally:
        _launches.pop()


def _convert(argument):
    """A tensor's pointer carries in its type which tensor it came from, and so does what is computed from it."""
    result = _stock("_implicit_cvt", interpreter)(argument)
    if hasattr(argument, "data_ptr"):
        launch, view = _launches[-1], View(getattr(argument, "base", argument))
        pointer = copy.copy(result.handle.dtype)
        pointer.view = view
        launch.memory.add(view)
        result.handle.dtype = pointer
    return result


def _set_grid_idx(self, x, y, z):
    launch, (_, ny, nz) = _launches[-1], self.grid_dim
    if launch.order is None:
        launch.order = np.arange(np.prod(self.grid_dim))
        if _rules[-1].order is not None:
            np.random.default_rng(_rules[-1].order).shuffle(launch.order)
    number = int(launch.order[(x * ny + y) * nz + z])
    index = number // (ny * nz), number // nz % ny, number % nz
    launch.memory.begin(index, number)
    _rules[-1].counters.programs += 1
    return _stock("set_grid_idx")(self, *index)


def _patch_language(function):
    """The stock interpreter patches `triton.language` again for every call of one function by another, at a millisecond
    each, and leaves it patched; once a launch is enough."""
    launch = _launches[-1]
    modules = {id(x) for x in function.__globals__.values() if x is tl or x is tl.core}
    if modules <= launch.patched:
        return interpreter._LangPatchScope()
    launch.patched |= modules
    scope = _stock("_patch_lang", interpreter)(function)
    if launch.patches is None:
        launch.patches = scope
        return scope
    launch.patches._changes += scope._changes  # undone with the kernel's
    return interpreter._LangPatchScope()


# Memory ------------------------------------------------------------------------------------------------------------


def _access(kind: str, pointers: TensorHandle, mask: Any) -> np.ndarray:
    """Count and check; the mask as an array."""
    rules, memory = _rules[-1], _launches[-1].memory
    width = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
    on = np.broadcast_to(np.asarray(mask.data, bool), pointers.data.shape)
    addresses = pointers.data[on]
    view = getattr(pointers.dtype.scalar, "view", None)
    rules.counters.load_bytes += addresses.size * width * (kind != "store")
    rules.counters.store_bytes += addresses.size * width * (kind != "load")
    if rules.bounds:
        memory.check_bounds(kind, addresses, width, view)
    if rules.races:
        memory.check_races(kind, pointers.data, addresses, width, view)
    return on


def _masked_load(self, pointers, mask, other, *args, **options):
    on = _access("load", pointers, mask)
    if other is None and _rules[-1].poison and not on.all():
        dtype = pointers.get_element_ty()
        other = TensorHandle(np.full(pointers.data.shape, _poison(dtype), interpreter._get_np_dtype(dtype)), dtype)
    return _stock("create_masked_load")(self, pointers, mask, other, *args, **options)


def _poison(dtype: tl.dtype) -> Any:
    kind = interpreter._get_np_dtype(dtype)
    if dtype == tl.bfloat16:
        return BFLOAT16_NAN
    return np.nan if kind.kind == "f" else True if kind.kind == "b" else np.iinfo(kind).max


def _masked_store(self, pointers, value, mask, *args, **options):
    on = _access("store", pointers, mask)
    result = _stock("create_masked_store")(self, pointers, value, mask, *args, **options)
    if _rules[-1].races:
        places, values = pointers.data[on], np.broadcast_to(value.data, on.shape)[on]
        stored = interpreter._interpreter.load(places, np.ones(places.shape, bool), np.zeros_like(values), values.dtype)
        if stored.tobytes() != values.tobytes():
            raise _launches[-1].memory.race("puts different values in one place with one store")
    return result


def _atomic(self, operation, pointers, value, mask, *args, **options):
    if _is_bfloat16(value):
        raise NotImplementedError("the interpreter has no atomic operations on bfloat16")
    _access("atomic", pointers, mask)
    return _stock("create_atomic_rmw")(self, operation, pointers, value, mask, *args, **options)


def _compare_and_swap(self, pointers, *args, **options):
    _access("atomic", pointers, TensorHandle(np.ones(pointers.data.shape, bool), tl.int1))
    return _stock("create_atomic_cas")(self, pointers, *args, **options)


def _barrier(self, *args, **options):
    _launches[-1].memory.barrier()


# Arithmetic --------------------------------------------------------------------------------------------------------


def _is_bfloat16(handle: TensorHandle) -> bool:
    return handle.dtype.scalar == tl.bfloat16


def _floats(handle: TensorHandle) -> np.ndarray:
    return from_bfloat16(handle.data) if _is_bfloat16(handle) else handle.data


def _cast(self, source, target, nearest=True):
    if source.dtype.scalar == target.scalar:
        return TensorHandle(source.data, target.scalar)
    if target.scalar == tl.bfloat16:
        return TensorHandle(to_bfloat16(_floats(source).astype(np.float32), nearest), tl.bfloat16)
    if _is_bfloat16(source):
        source = TensorHandle(from_bfloat16(source.data), tl.float32)
    return _stock("cast_impl")(self, source, target)


def _cast_floats(self, source, target, rounding):
    to_zero = rounding == interpreter._ir.ROUNDING_MODE.RTZ
    eight_bits = source.dtype.scalar.is_fp8() or target.scalar.is_fp8()
    if eight_bits or (to_zero and target.scalar != tl.bfloat16):
        return _stock("create_fp_to_fp")(self, source, target, rounding)
    return _cast(self, source, target, nearest=not to_zero)


def _bfloat16_constant(self, value):
    return TensorHandle(to_bfloat16(np.array([value], np.float32)), tl.bfloat16)


def _elementwise(name: str) -> Callable:
    """A unary or binary operation, or one of three, computed in float32 on bfloat16."""

    def apply(self, *args):
        *handles, operation = args
        if operation is np.where:
            return _select(self, *handles)
        if not _is_bfloat16(handles[-1]):
            return _stock(name)(self, *args)
        result = operation(*(_floats(x) for x in handles))
        if result.dtype == np.bool_:
            return TensorHandle(result, tl.int1)
        return TensorHandle(to_bfloat16(result), tl.bfloat16)

    return apply


def _select(self, condition, first, second):
    result = _stock("ternary_op")(self, condition, first, second, np.where)
    if getattr(first.dtype, "view", None) is not getattr(second.dtype, "view", None):
        result.dtype = tl.pointer_type(second.dtype.element_ty)  # into either tensor
    return result


def _multiply_add(self, x, y, z):
    if not _is_bfloat16(z):
        return _stock("create_fma")(self, x, y, z)
    return TensorHandle(to_bfloat16(_floats(x) * _floats(y) + _floats(z)), tl.bfloat16)


def _dot(self, a, b, d, precision, *args, **options):
    *batch, rows, inner = a.data.shape
    _rules[-1].counters.flops += 2 * int(np.prod(batch, dtype=int)) * rows * inner * b.data.shape[-1]
    if any(x.dtype.scalar.is_fp8() for x in (a, b)) or a.data.dtype.kind in "iu" and not _is_bfloat16(a):
        return _stock("create_dot")(self, a, b, d, precision, *args, **options)
    left, right = (_floats(x) for x in (a, b))
    if left.dtype == np.float32 and not _is_bfloat16(a) and precision == interpreter._ir.INPUT_PRECISION.TF32:
        left, right = to_tf32(left), to_tf32(right)
    wide = np.float64 if left.dtype == np.float64 else np.float32
    product = left.astype(wide, copy=False) @ right.astype(wide, copy=False)
    return TensorHandle((product + d.data).astype(d.data.dtype, copy=False), d.dtype.scalar)


def _scan(self, inputs):
    """Whole blocks are combined, log2(n) times (Hillis & Steele 1986), which is faster than one element after another;
    and as on a GPU, the result is wrong if the function is not associative."""
    data = [x.handle.data for x in inputs]
    axis = self.axis % data[0].ndim
    place = np.arange(data[0].shape[axis]).reshape([-1 if each == axis else 1 for each in range(data[0].ndim)])
    distance = 1
    while distance < data[0].shape[axis]:
        combined = _combine(self, inputs, [np.roll(x, distance, axis) for x in data], data)
        data = [np.where(place < distance, x, later) for x, later in zip(data, combined, strict=True)]
        distance *= 2
    return [self.to_tensor(x, given.dtype) for x, given in zip(data, inputs, strict=True)]


def _reduce(self, inputs):
    """Neighbours are combined, log2(n) times."""
    data, dims = [x.handle.data for x in inputs], inputs[0].handle.data.ndim
    if self.axis is None:
        data = [x.reshape([1] * (dims - 1) + [-1]) for x in data]
    axis = (dims - 1 if self.axis is None else self.axis) % dims
    before = (slice(None),) * axis
    while data[0].shape[axis] > 1:
        halves = [[x[(*before, slice(start, None, 2))] for x in data] for start in (0, 1)]
        data = _combine(self, inputs, *halves)
    if not self.keep_dims:
        data = [x.item() if self.axis is None or dims == 1 else x.squeeze(axis) for x in data]
    return [self.to_tensor(x, given.dtype) for x, given in zip(data, inputs, strict=True)]


def _combine(self, inputs, left: list[np.ndarray], right: list[np.ndarray]) -> list[np.ndarray]:
    sides = [self.to_tensor(x, given.dtype) for side in (left, right) for x, given in zip(side, inputs, strict=True)]
    result = self.combine_fn.fn(*sides)
    result = result if isinstance(result, (tuple, tl.tuple)) else (result,)
    return [np.broadcast_to(x.handle.data, left[0].shape) for x in result]


def _unless_bfloat16(kind: type, generic: Callable) -> Callable:
    """Not the stock shortcuts, which would add and compare bfloat16's bits."""

    def apply(self, inputs):
        if not any(_is_bfloat16(x.handle) for x in inputs):
            return _stock("apply_impl", kind)(self, inputs)
        if not getattr(self, "reverse", False):
            return generic(self, inputs)
        flipped = [self.to_tensor(np.flip(x.handle.data, self.axis), x.dtype) for x in inputs]
        return [self.to_tensor(np.flip(x.handle.data, self.axis), x.dtype) for x in generic(self, flipped)]

    return apply


# Patching ----------------------------------------------------------------------------------------------------------


def _numpy_dtype(dtype):
    """The stock function builds its table at every call."""
    name = dtype.scalar.name
    if name not in _numpy_dtypes:
        _numpy_dtypes[name] = _stock("_get_np_dtype", interpreter)(dtype.scalar)
    return _numpy_dtypes[name]


_numpy_dtypes: dict[str, np.dtype] = {}
_PATCHES: dict[tuple[Any, str], Any] = {
    (interpreter.GridExecutor, "__call__"): _call,
    (interpreter, "_implicit_cvt"): _convert,
    (interpreter, "_patch_lang"): _patch_language,
    (interpreter, "_get_np_dtype"): _numpy_dtype,
    # Overflow is computed beside every sum of integers, and looked at in debug mode only.
    (interpreter.interpreter_builder, "options"): InterpreterOptions(sanitize_overflow=False),
    (InterpreterBuilder, "set_grid_idx"): _set_grid_idx,
    (InterpreterBuilder, "create_masked_load"): _masked_load,
    (InterpreterBuilder, "create_masked_store"): _masked_store,
    (InterpreterBuilder, "create_atomic_rmw"): _atomic,
    (InterpreterBuilder, "create_atomic_cas"): _compare_and_swap,
    (InterpreterBuilder, "create_barrier"): _barrier,
    (InterpreterBuilder, "cast_impl"): _cast,
    (InterpreterBuilder, "create_fp_to_fp"): _cast_floats,
    (InterpreterBuilder, "get_bf16"): _bfloat16_constant,
    (InterpreterBuilder, "unary_op"): _elementwise("unary_op"),
    (InterpreterBuilder, "binary_op"): _elementwise("binary_op"),
    (InterpreterBuilder, "ternary_op"): _elementwise("ternary_op"),
    (InterpreterBuilder, "create_fma"): _multiply_add,
    (InterpreterBuilder, "create_dot"): _dot,
    (interpreter.ScanOps, "apply_impl"): _unless_bfloat16(interpreter.ScanOps, _scan),
    (interpreter.ScanOps, "generic_scan"): _scan,
    (interpreter.ReduceOps, "apply_impl"): _unless_bfloat16(interpreter.ReduceOps, _reduce),
    (interpreter.ReduceOps, "generic_reduce"): _reduce,
}
_STOCK = {(owner, name): getattr(owner, name, None) for owner, name in _PATCHES}


def _stock(name: str, owner: Any = InterpreterBuilder) -> Callable:
    return _STOCK[owner, name]
