"""What Triton's compiler makes of the kernels, read without a GPU, and when a change made it worse."""

from __future__ import annotations

import bisect
import itertools
import math
import os
import re
import struct
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from worldmodel.kernels.dispatch import compiling_for
from worldmodel.kernels.jit import Kernel, launching_with

ARCHITECTURES = (80, 90, 100)
COMMAND = "python -m scripts.kernel_report"
MORE_REGISTERS = 8  # than committed: what a compiler may add without a change of the kernel's kind
MORE_BYTES = 1.02  # times what is committed

# CUDA C++ Programming Guide, "Technical specifications per compute capability".
_SHARED_MEMORY = {80: 164 << 10, 90: 228 << 10, 100: 228 << 10}  # of a multiprocessor
_REGISTERS, _WARPS, _BLOCKS, _TENSOR_MEMORY = 65536, 64, 32, 512  # of a multiprocessor; the last in columns
_RESERVED = 1024  # bytes of shared memory that the system takes for each block

_TENSOR_CORES = ("HMMA", "HGMMA", "UTCHMMA", "IMMA", "IGMMA", "QGMMA", "UTCQMMA", "DMMA")
_BULK_COPIES = ("UTMALDG", "UTMASTG", "UBLKCP")
_INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", re.MULTILINE)
_WIDTHS = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}

Facts = dict[str, Any]


@contextmanager
def compiling(architecture: int) -> Iterator[list[Any]]:
    """Within, a launch compiles its kernel for `architecture` and runs nothing; the `triton.CompiledKernel`s, in the order
    of the launches, are in the list. What the launching code decides is what it decides for a GPU: the tile sizes, and
    which strides and pointers Triton takes to be divisible by 16.

    Raises:
        RuntimeError: the process has TRITON_INTERPRET=1, which replaces the compiler.
    """
    if os.environ.get("TRITON_INTERPRET", "0") == "1":
        raise RuntimeError("nothing is compiled where TRITON_INTERPRET=1: start Python without it")
    from triton.runtime import driver

    compiled: list[Any] = []

    def compile_launch(kernel: Kernel, grid: tuple, args: tuple, options: dict) -> None:
        compiled.append(kernel.jit.warmup(*args, grid=grid, **options))

    before = dict(vars(driver))  # reading `driver.active` would look for a GPU
    driver.set_active(_NoDevice(architecture))
    try:
        with compiling_for(architecture), launching_with(compile_launch):
            yield compiled
    finally:
        vars(driver).update(before)


class _NoDevice:
    """What Triton asks its driver for before it compiles. The number of the device, by which it keeps compiled kernels
    apart, is the architecture's."""

    def __init__(self, architecture: int):
        self.architecture = architecture

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.architecture, 32)

    def get_current_device(self) -> int:
        return self.architecture

    def get_current_stream(self, device: int) -> int:
        return 0


def facts(kernels: Sequence[Any]) -> list[Facts]:
    """Of each `triton.CompiledKernel`: registers of a thread, bytes it spills and bytes of its stack, shared memory of a
    block, warps, stages, blocks that fit a multiprocessor, the class of tensor-core instruction, loads from global
    memory and how many of them are of 16 bytes or more, bulk copies (TMA), instructions."""
    return [_facts(kernel, opcodes) for kernel, opcodes in zip(kernels, _disassembled(kernels), strict=True)]


def _facts(kernel: Any, opcodes: Counter[str]) -> Facts:
    metadata = kernel.metadata
    usage = _run("cuobjdump", kernel.asm["cubin"], "--dump-resource-usage")
    registers, stack = (int(re.search(rf"\b{name}:(\d+)", usage)[1]) for name in ("REG", "STACK"))
    kinds: Counter[str] = Counter()
    for opcode, count in opcodes.items():
        kinds[opcode.split(".")[0]] += count
    loads = {opcode: count for opcode, count in opcodes.items() if opcode.split(".")[0] in ("LDG", "LDGSTS")}
    columns = getattr(metadata, "tmem_size", None) or 0
    blocks = blocks_per_sm(metadata.target.arch, registers, metadata.shared, metadata.num_warps, columns)
    return {
        "registers": registers,
        "spill_bytes": sum(_width(o) * n for o, n in opcodes.items() if o.split(".")[0] in ("STL", "LDL")),
        "stack": stack,
        "shared_memory": metadata.shared,
        "warps": metadata.num_warps,
        "stages": metadata.num_stages,
        "blocks_per_sm": blocks,
        "tensor_cores": "+".join(kind for kind in _TENSOR_CORES if kinds[kind]),
        "loads": sum(loads.values()),
        "wide_loads": sum(count for opcode, count in loads.items() if re.search(r"\.(128|256)\b", opcode)),
        "bulk_copies": sum(kinds[kind] for kind in _BULK_COPIES),
        "instructions": sum(opcodes.values()),
    }


def blocks_per_sm(architecture: int, registers: int, shared_memory: int, warps: int, columns: int = 0) -> int:
    """Blocks of `warps` warps that one multiprocessor holds at a time, as CUDA's occupancy calculator has it."""
    of_a_warp = -(-registers * 32 // 256) * 256
    warps_by_registers = _REGISTERS // of_a_warp // 4 * 4
    limits = [
        _BLOCKS,
        _WARPS // warps,
        warps_by_registers // warps,
        _SHARED_MEMORY[architecture] // (shared_memory + _RESERVED),
    ]
    return min([*limits, _TENSOR_MEMORY // columns] if columns else limits)


def _width(opcode: str) -> int:
    """Bytes that one thread moves."""
    return next((_WIDTHS[word] for word in opcode.split(".")[1:] if word in _WIDTHS), 4)


def _disassembled(kernels: Sequence[Any]) -> list[Counter[str]]:
    """How often each opcode occurs in each kernel. The instructions of all kernels of an architecture are given to
    `nvdisasm` together: it takes a third of a second to start."""
    opcodes: list[Counter[str]] = [Counter() for _ in kernels]
    targets = [re.search(r"^\.target sm_(\w+)", kernel.asm["ptx"], re.MULTILINE)[1] for kernel in kernels]
    for target in sorted(set(targets)):
        members = [number for number, other in enumerate(targets) if other == target]
        binaries = [_instructions(kernels[number].asm["cubin"]) for number in members]
        starts = list(itertools.accumulate(map(len, binaries), initial=0))
        listing = _run("nvdisasm", b"".join(binaries), "--binary", f"SM{target}")
        for address, opcode in _INSTRUCTION.findall(listing):
            opcodes[members[bisect.bisect(starts, int(address, 16)) - 1]][opcode] += 1
    return opcodes


def _instructions(cubin: bytes) -> bytes:
    """The section `.text.<kernel>` of an ELF file of 64 bits (System V ABI, chapter 4)."""
    (table,) = struct.unpack_from("<Q", cubin, 40)
    size, count, of_names = struct.unpack_from("<3H", cubin, 58)
    sections = [struct.unpack_from("<2I4Q", cubin, table + size * number) for number in range(count)]
    names = sections[of_names][4]
    (found,) = (each for each in sections if cubin.startswith(b".text.", names + each[0]))
    return cubin[found[4] : found[4] + found[5]]


def _run(tool: str, binary: bytes, *options: str) -> str:
    """What one of the tools that come with Triton prints of a file."""
    from triton import knobs

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel"
        path.write_bytes(binary)
        command = [getattr(knobs.nvidia, tool).path, *options, str(path)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def same_release(measured: Mapping[str, Any], committed: Mapping[str, Any]) -> bool:
    """Whether both are of one Triton, patch releases aside: another one's registers differ by a fifth."""
    return measured["triton"].split(".")[:2] == committed["triton"].split(".")[:2]


def violations(measured: Mapping[str, Any], committed: Mapping[str, Any]) -> list[str]:
    """What is worse in `measured` than in `committed`, or at all too bad; one line each.

    Both are `{"triton": version, "cases": {case: {architecture: {"operations": {name: traffic}, "kernels": {name:
    facts}}}}}`. Where the Triton is of another release than the committed one, what its compiler is free to choose
    (registers, shared memory, blocks, wide loads) is not compared.
    """
    found = []
    same = same_release(measured, committed)
    for place, here, there in _pairs(measured["cases"], committed["cases"]):
        if there is None:
            found.append(f"{place}: not among the committed facts; if that is right, {COMMAND} --write")
        elif here is None:
            found.append(f"{place}: committed, but no longer there; if that is right, {COMMAND} --write")
        if here is not None:
            check = _kernel_violations if "registers" in here else _operation_violations
            found += [f"{place}: {what}" for what in check(here, there, same)]
    return found


def _pairs(measured: Mapping, committed: Mapping, *path: str) -> Iterator[tuple[str, Facts | None, Facts | None]]:
    """Each kernel's and each operation's facts on both sides, None where a side has none."""
    for name in sorted({*measured, *committed}):
        here, there = measured.get(name), committed.get(name)
        if len(path) == 3:
            yield ", ".join((path[0], f"sm_{path[1]}", name)), here, there
        else:
            yield from _pairs(here or {}, there or {}, *path, name)


def _kernel_violations(here: Facts, there: Facts | None, same: bool) -> Iterator[str]:
    if here["spill_bytes"]:
        yield f"spills {here['spill_bytes']} bytes"
    if here["stack"]:
        yield f"has a stack of {here['stack']} bytes"
    if there is None:
        return
    if here["tensor_cores"] != there["tensor_cores"]:
        yield f"multiplies by {here['tensor_cores'] or 'no tensor cores'}, committed {there['tensor_cores'] or 'none'}"
    if not same:
        return
    if here["registers"] > there["registers"] + MORE_REGISTERS:
        yield f"{here['registers']} registers, committed {there['registers']} (+ {MORE_REGISTERS})"
    if here["shared_memory"] > there["shared_memory"]:
        yield f"{here['shared_memory']} bytes of shared memory, committed {there['shared_memory']}"
    if here["blocks_per_sm"] < there["blocks_per_sm"]:
        yield f"{here['blocks_per_sm']} blocks per multiprocessor, committed {there['blocks_per_sm']}"
    if here["wide_loads"] * there["loads"] < there["wide_loads"] * here["loads"]:
        wide = f"{here['wide_loads']} of {here['loads']} loads are wide"
        yield f"{wide}, committed {there['wide_loads']} of {there['loads']}"
    if here["bulk_copies"] == 0 < there["bulk_copies"]:
        yield "no bulk copies (TMA) any more"


def _operation_violations(here: Facts, there: Facts | None, same: bool) -> Iterator[str]:
    if here["bytes"] > here.get("most_bytes", math.inf):
        yield f"requests {here['bytes']:.3f} times the compulsory bytes, at most {here['most_bytes']} are allowed"
    if here.get("saved", 0) < here.get("least_saved", 0):
        yield f"sharing saves a factor of {here['saved']:.3f} in bytes, at least {here['least_saved']} is wanted"
    if there is None:
        return
    if here["launches"] > there["launches"]:
        yield f"{here['launches']} launches, committed {there['launches']}"
    for key, what in (("bytes", "the compulsory bytes"), ("flop", "the useful multiplications")):
        if here.get(key, 0) > there.get(key, 0) * MORE_BYTES:
            yield f"{here[key]:.3f} times {what}, committed {there.get(key, 0):.3f}"
    if here.get("saved", 0) * MORE_BYTES < there.get("saved", 0):
        yield f"sharing saves a factor of {here.get('saved', 0):.3f} in bytes, committed {there['saved']:.3f}"
