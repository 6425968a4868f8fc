"""What the kernels compile to, beside what is committed: `python -m scripts.kernel_report [--only NAME ...] [--write]`.

Needs no GPU. Kernels are compiled for each architecture, and run in Triton's interpreter to count what they read and
write; the interpreter takes the compiler's place, so these are processes of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from worldmodel.kernels.machine_code import ARCHITECTURES, COMMAND, Facts, same_release, violations

COMPILERS = ("num_warps", "num_stages", "maxnreg")  # options that do not concern the interpreter
ROOT = Path(__file__).parents[1]
COMMITTED = ROOT / "tests" / "worldmodel" / "kernels" / "machine_code.json"


def main() -> None:
    """Measure, print a table and what is worse than committed; exit code 1 if anything is."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="*", metavar="NAME", help="cases whose names begin so")
    parser.add_argument("--arch", nargs="*", type=int, choices=ARCHITECTURES, default=list(ARCHITECTURES))
    parser.add_argument("--write", action="store_true", help=f"commit to these facts, in {COMMITTED.relative_to(ROOT)}")
    parser.add_argument("--json", action="store_true", help="print what this process measures, as JSON")
    arguments = parser.parse_args()
    if arguments.json:
        measured = count if os.environ.get("TRITON_INTERPRET") == "1" else compiled
        print(json.dumps(measured(arguments.only, arguments.arch)))
        return
    measured = measure(arguments.only, arguments.arch)
    committed = json.loads(COMMITTED.read_text()) if COMMITTED.exists() else {"triton": measured["triton"], "cases": {}}
    show(measured)
    if not same_release(measured, committed):
        print(
            f"Triton {measured['triton']}, the facts are of {committed['triton']}: registers, shared memory, blocks and"
            " wide loads are not compared"
        )
    if arguments.write:
        write(measured, committed, whole=arguments.only is None and len(arguments.arch) == len(ARCHITECTURES))
        return
    worse = violations(measured, part(committed, arguments.only, arguments.arch))
    print("\n".join(worse) or "nothing is worse than committed")
    sys.exit(bool(worse))


def measure(only: Sequence[str] | None = None, architectures: Sequence[int] = ARCHITECTURES) -> dict[str, Any]:
    """All facts, in the form that `violations` takes, measured by two processes at a time."""
    with ThreadPoolExecutor(2) as pool:
        # The newest first: compiling for it takes longest.
        parts = [pool.submit(_process, only, [number], False) for number in sorted(architectures, reverse=True)]
        parts.append(pool.submit(_process, only, architectures, True))
        parts = [part.result() for part in parts]
    cases: dict[str, Any] = {}
    for each in parts:
        for name, by_architecture in each["cases"].items():
            for number, sections in by_architecture.items():
                mine = cases.setdefault(name, {}).setdefault(number, {"operations": {}, "kernels": {}})
                mine["kernels"].update(sections.get("kernels", {}))
                for operation, traffic in sections["operations"].items():
                    mine["operations"].setdefault(operation, {}).update(traffic)
    return {"triton": parts[0]["triton"], "cases": cases}


def _process(only: Sequence[str] | None, architectures: Sequence[int], interpret: bool) -> dict[str, Any]:
    """What a process says that has TRITON_INTERPRET or has not."""
    command = [sys.executable, "-m", "scripts.kernel_report", "--json", "--arch", *map(str, architectures)]
    command += ["--only", *only] if only is not None else []
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "TRITON_INTERPRET": "1" if interpret else "0", "PYTHONPATH": path}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def compiled(only: Sequence[str] | None, architectures: Iterable[int]) -> dict[str, Any]:
    """Launches of each operation, and what each kernel is compiled to."""
    import triton

    from worldmodel.kernels.cases import Calls
    from worldmodel.kernels.machine_code import compiling, facts

    cases: dict[str, Any] = {}
    for number in architectures:
        with compiling(number) as launched, Calls(lambda: len(launched)) as calls:
            for name, case in _cases(only).items():
                first = len(launched), len(calls.calls)
                _run(name, case, case.rows)
                sections = {"operations": {}, "kernels": range(first[0], len(launched))}
                for call in calls.calls[first[1] :]:
                    sections["operations"][call.operation] = {"launches": call.after - call.before}
                cases.setdefault(name, {})[str(number)] = sections
        found = facts(launched)
        for case in cases.values():
            kernels: dict[str, Facts] = {}
            for place in case[str(number)]["kernels"]:
                name = launched[place].name
                while kernels.setdefault(name, found[place]) != found[place]:
                    name += "'"  # the same function, compiled for other arguments
            case[str(number)]["kernels"] = kernels
    return {"triton": triton.__version__, "cases": cases}


def count(only: Sequence[str] | None, architectures: Iterable[int]) -> dict[str, Any]:
    """Bytes that each operation requests, over those that it must, and multiplications over the useful ones."""
    import torch
    import triton
    from strict_interpreter import strict

    from worldmodel.kernels.cases import Calls
    from worldmodel.kernels.dispatch import compiling_for
    from worldmodel.kernels.jit import launching_with

    cases: dict[str, Any] = {}
    for name, case in _cases(only).items():
        known: dict[tuple, Facts] = {}
        for number in architectures:
            layout: list[tuple] = []

            def lay_out(kernel: Any, grid: tuple, args: tuple, options: dict, layout: list = layout) -> None:
                layout.append(
                    (kernel.__name__, grid, str({key: options[key] for key in options if key not in COMPILERS}))
                )

            with compiling_for(number), launching_with(lay_out):
                _run(name, case, case.few)
            key = tuple(layout)
            if key not in known:  # architectures often have the same tiles
                torch.manual_seed(0)
                with (
                    compiling_for(number),
                    strict(bounds=False, poison=False, races=False) as counters,
                    Calls(partial(_counted, counters)) as calls,
                ):
                    _run(name, case, case.few)
                known[key] = {call.operation: _traffic(call, case) for call in calls.calls}
            cases.setdefault(name, {})[str(number)] = {"operations": known[key]}
    return {"triton": triton.__version__, "cases": cases}


def _counted(counters: Any) -> tuple[int, int]:
    return counters.load_bytes + counters.store_bytes, counters.flops


def _run(name: str, case: Any, rows: int) -> None:
    try:
        case.run(rows)
    except Exception as error:
        raise RuntimeError(f"the case {name!r} cannot be run") from error


def _traffic(call: Any, case: Any) -> Facts:
    requested, flop = (after - before for before, after in zip(call.before, call.after, strict=True))
    compulsory = call.compulsory - case.idle * case.few
    traffic = {"bytes": round(requested / compulsory, 4)}
    if case.most_bytes:
        traffic["most_bytes"] = case.most_bytes
    if case.useful:
        # A forward pass has two products of matrices; a backward pass has four, and one of the forward's again.
        useful = case.useful * case.few * (2.5 if call.operation.endswith("_backward") else 1)
        traffic["flop"] = round(flop / useful, 4)
    if case.shared:
        traffic["saved"] = round((compulsory + case.shared * case.few) / requested, 4)
    if case.least_saved:
        traffic["least_saved"] = case.least_saved
    return traffic


def _cases(only: Sequence[str] | None) -> dict[str, Any]:
    from worldmodel.kernels.cases import CASES

    return {name: case for name, case in CASES.items() if only is None or name.startswith(tuple(only))}


def part(committed: dict[str, Any], only: Sequence[str] | None, architectures: Iterable[int]) -> dict[str, Any]:
    """The committed facts of some cases and architectures."""
    numbers = [str(number) for number in architectures]
    cases = {
        name: {number: sections for number, sections in case.items() if number in numbers}
        for name, case in committed["cases"].items()
        if only is None or name.startswith(tuple(only))
    }
    return {**committed, "cases": cases}


def write(measured: dict[str, Any], committed: dict[str, Any], whole: bool) -> None:
    """Rewrite the committed facts; what was not measured stays. One line for each kernel, so that a change is read."""
    from worldmodel.kernels.cases import CASES

    if not whole and measured["triton"] != committed["triton"]:
        raise SystemExit(f"the other facts are of Triton {committed['triton']}: write all of them, or install that one")
    cases = {} if whole else {name: case for name, case in committed["cases"].items() if name in CASES}
    for name, case in measured["cases"].items():
        cases[name] = {**cases.get(name, {}), **case}
    text = json.dumps(
        {"triton": measured["triton"], "command": f"{COMMAND} --write", "cases": cases}, indent=1, sort_keys=True
    )
    COMMITTED.write_text(_one_line_each(text) + "\n")
    print(f"written to {COMMITTED.relative_to(ROOT)}")


def _one_line_each(text: str) -> str:
    """JSON whose innermost dictionaries are one line each."""
    import re

    return re.sub(r"\{[^{}]*\}", lambda found: " ".join(found[0].split()), text)


def show(measured: dict[str, Any]) -> None:
    """Two tables: of kernels, and of operations."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 180)
    keys = {
        "registers": "regs", "spill_bytes": "spill", "stack": "stack", "shared_memory": "shared", "warps": "warps",
        "stages": "stages", "blocks_per_sm": "blocks", "tensor_cores": "tensor cores", "loads": "loads",
        "wide_loads": "wide", "bulk_copies": "bulk", "instructions": "instructions",
    }  # fmt: skip
    kernels = Table("case", "sm", "kernel", *keys.values())
    more = ("launches", "bytes", "flop", "saved")
    operations = Table("case", "sm", "operation", "launches", "bytes / compulsory", "flop / useful", "saved by sharing")
    for name, case in measured["cases"].items():
        for number, sections in case.items():
            for kernel, found in sections["kernels"].items():
                kernels.add_row(name, number, kernel, *(str(found[key]) for key in keys))
            for operation, found in sections["operations"].items():
                operations.add_row(name, number, operation, *(str(found.get(key, "")) for key in more))
    console.print(kernels, operations)


if __name__ == "__main__":
    main()
