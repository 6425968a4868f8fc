"""What the programs of one launch may touch, and what they did: bounds, and races between them and within one.

For `strict_interpreter`, which calls it at every load, store and atomic operation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

_ATOMICALLY = -1  # in a shadow of writers: atomic operations, which may meet
_SEVERAL = -1  # in a shadow of readers: more than one program
_VERBS = {"load": "reads", "store": "overwrites", "atomic": "updates"}


class OutOfBounds(IndexError):
    """A program touches what is no element of the tensor that its pointer came from."""


class Race(RuntimeError):
    """The result depends on the order of programs, or of one program's threads."""


class View:
    """A tensor among a launch's arguments. What lies between its elements in its storage is outside of it."""

    def __init__(self, tensor: Tensor):
        size, stride, self.width = tuple(tensor.shape), tensor.stride(), tensor.element_size()
        self.name = f"a {str(tensor.dtype).removeprefix('torch.')} tensor {list(size)} with strides {list(stride)}"
        self.extent = sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1 if tensor.numel() else 0
        self.start = tensor.data_ptr()
        self.end = self.start + self.extent * self.width
        self.region: Region | None = None
        self.member: np.ndarray | None = None
        if self.extent != tensor.numel():
            # Zeros take no memory until they are touched, here and in a region: strides may be huge.
            self.member = np.zeros(self.extent, bool)
            steps = [step if n > 1 else 0 for n, step in zip(size, stride, strict=True)]
            np.lib.stride_tricks.as_strided(self.member, size, steps)[...] = True

    def holds(self, addresses: np.ndarray, width: int) -> np.ndarray:
        """Whether an element is at each address."""
        inside = (addresses >= np.uint64(self.start)) & (addresses + np.uint64(width) <= np.uint64(self.end))
        if self.member is not None:
            place = (addresses[inside] - np.uint64(self.start)).astype(np.int64) // self.width
            inside[inside] = self.member[place]
        return inside


class Region:
    """The bytes of views that overlap, in units of their smallest element: for each, which program wrote it, and which
    read it. Programs count from one, zero is none."""

    def __init__(self, view: View):
        self.start, self.end, self.unit = view.start, view.end, view.width
        self.writer = self.reader = np.zeros(0, np.int32)

    def add(self, view: View) -> None:
        self.end, self.unit = max(self.end, view.end), min(self.unit, view.width)

    def units(self, addresses: np.ndarray, width: int) -> np.ndarray:
        """Which units `[N, width / unit]` the elements of `width` bytes at these addresses take; those elsewhere are
        left out."""
        if not len(self.writer):
            self.writer, self.reader = (np.zeros((self.end - self.start) // self.unit, np.int32) for _ in range(2))
        addresses = addresses[(addresses >= np.uint64(self.start)) & (addresses < np.uint64(self.end))]
        first = (addresses - np.uint64(self.start)).astype(np.int64) // self.unit
        return first[:, None] + np.arange(max(1, width // self.unit))


@dataclass
class Memory:
    """The memory that a launch's kernel sees."""

    kernel: str
    views: list[View] = field(default_factory=list)
    regions: list[Region] = field(default_factory=list)
    index: tuple[int, ...] = ()
    program: int = 0
    stores: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)  # pointers and addresses since a barrier

    def add(self, view: View) -> None:
        """Let the kernel touch a tensor."""
        self.views.append(view)

    def begin(self, index: tuple[int, ...], number: int) -> None:
        """Program `index` of the grid, the `number`-th from zero, starts."""
        if not self.program:
            self._find_regions()
        self.index, self.program = index, number + 1
        self.stores.clear()

    def barrier(self) -> None:
        """What the program's threads stored, all of them may load from here on."""
        self.stores.clear()

    def check_bounds(self, kind: str, addresses: np.ndarray, width: int, view: View | None) -> None:
        """Raise OutOfBounds unless each address is an element's of `view`, or of any view if it is not known."""
        outside = np.ones(addresses.shape, bool)
        for each in self.views if view is None else [view]:
            outside &= ~each.holds(addresses, width)
        if not outside.any():
            return
        where, first = "any tensor", f"at address {int(addresses[outside][0]):#x}"
        if view is not None:
            where, first = view.name, f"element {(int(addresses[outside][0]) - view.start) // width} of {view.extent}"
        count = f"{int(outside.sum())} of {addresses.size} elements"
        raise OutOfBounds(f"{self._where()}: {kind} of {count} outside of {where}, the first is {first}")

    def check_races(
        self, kind: str, pointers: np.ndarray, addresses: np.ndarray, width: int, view: View | None
    ) -> None:
        """Raise Race if others' accesses so far, or the program's own ones, can come before or after this one; and
        remember it. `addresses` are those of `pointers` that the mask lets through."""
        for region in self.regions if view is None else self._regions_of(view):
            units = region.units(addresses, width)
            writer, reader = region.writer[units], region.reader[units]
            self._check_writers(kind, writer)
            if kind == "load":
                region.reader[units] = np.where((reader == 0) | (reader == self.program), self.program, _SEVERAL)
            else:
                self._check_readers(reader)
                region.writer[units] = self.program if kind == "store" else _ATOMICALLY
            if (writer == self.program).any():
                self._check_threads(kind, pointers, addresses)
        if kind == "store":
            self.stores.append((pointers, addresses))

    def race(self, what: str) -> Race:
        """The error."""
        return Race(f"{self._where()} {what}")

    def _check_writers(self, kind: str, writer: np.ndarray) -> None:
        others = (writer != 0) & (writer != (_ATOMICALLY if kind == "atomic" else self.program))
        if others.any():
            first = writer[others][0]
            who = "atomic operations update" if first == _ATOMICALLY else f"program {first - 1} writes"
            raise self.race(f"{_VERBS[kind]} {int(others.any(1).sum())} of {len(writer)} elements that {who}")

    def _check_readers(self, reader: np.ndarray) -> None:
        others = (reader != 0) & (reader != self.program)
        if others.any():
            first = reader[others][0]
            who = "others read" if first == _SEVERAL else f"program {first - 1} reads"
            raise self.race(f"writes {int(others.any(1).sum())} of {len(reader)} elements that {who}")

    def _check_threads(self, kind: str, pointers: np.ndarray, addresses: np.ndarray) -> None:
        """The same block of pointers is laid out over threads in the same way; another one is not."""
        for stored, places in self.stores:
            if not np.array_equal(pointers, stored) and (common := np.isin(addresses, places)).any():
                what = (
                    f"{_VERBS[kind]} {int(common.sum())} of {addresses.size} elements that other threads of it stored"
                )
                raise self.race(f"{what}: tl.debug_barrier() belongs between")

    def _find_regions(self) -> None:
        for view in sorted((view for view in self.views if view.extent), key=lambda view: view.start):
            if self.regions and view.start < self.regions[-1].end:
                self.regions[-1].add(view)
            else:
                self.regions.append(Region(view))
            view.region = self.regions[-1]

    def _regions_of(self, view: View) -> Iterable[Region]:
        return [] if view.region is None else [view.region]

    def _where(self) -> str:
        return f"{self.kernel}, program {self.program - 1} at {self.index}"
