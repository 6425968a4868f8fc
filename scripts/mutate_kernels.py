"""Do the checks catch bugs? `python -m scripts.mutate_kernels [--only KERNEL ...] [--jobs 2]`, by hand: it takes half an hour.

Each mutation of scripts/kernel_mutations.py is made in a copy of the repository. The kernel's tests run on it in the strict
interpreter, and where they pass, the compile gate. Prints which of them caught it and writes results/kernel_mutations.json;
exit code 1 if one survives that gives wrong results.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from scripts.kernel_mutations import MUTATIONS, Mutation
from worldmodel.provenance import result_json, write_json

ROOT = Path(__file__).parents[1]
COPIED = ("worldmodel", "tests", "scripts", "configs", "envs", "policies", "pyproject.toml")
WRITTEN = ROOT / "results" / "kernel_mutations.json"
COMMAND = "python -m scripts.mutate_kernels"


def main() -> None:
    """Try the mutations that are asked for, all by default."""
    kernels = sorted({mutation.kernel for mutation in MUTATIONS})
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=kernels, default=kernels)
    parser.add_argument("--jobs", type=int, default=2, help="side by side (2)")
    arguments = parser.parse_args()
    chosen = [mutation for mutation in MUTATIONS if mutation.kernel in arguments.only]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        rows = []
        for mutation, caught_by in zip(chosen, pool.map(try_out, chosen), strict=True):
            print(f"{mutation.kernel}: {mutation.what}: {caught_by or 'SURVIVED'}", flush=True)
            rows.append(
                {"kernel": mutation.kernel, "what": mutation.what, "slower": mutation.slower, "caught_by": caught_by}
            )
    write_json(WRITTEN, result(rows, arguments.only))
    sys.exit(any(row["caught_by"] is None and not row["slower"] for row in rows))


def result(rows: list[dict], kernels: list[str]) -> dict:
    """The claim, with the new rows in place of the old ones of `kernels`."""
    if WRITTEN.exists():
        listed = {(mutation.kernel, mutation.what) for mutation in MUTATIONS}
        before = json.loads(WRITTEN.read_text())["mutations"]
        rows += [row for row in before if row["kernel"] not in kernels and (row["kernel"], row["what"]) in listed]
    rows.sort(key=lambda row: row["kernel"])
    wrong, slower = ([row for row in rows if row["slower"] == slow] for slow in (False, True))
    caught = [sum(row["caught_by"] is not None for row in part) for part in (wrong, slower)]
    claim = (
        f"bugs put into the kernels that the tests or the compile gate catch: share of {len(wrong)} that give wrong results; "
        f"of {len(slower)} that are only slower, {caught[1]} are caught"
    )
    return result_json(claim, COMMAND, [0], [caught[0] / max(1, len(wrong))], 1.0, mutations=rows)


def try_out(mutation: Mutation) -> str | None:
    """The check that caught it, with its words, or None."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in COPIED:
            (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, copy / name)
        source = copy / "worldmodel" / "kernels" / f"{mutation.kernel}.py"
        text = source.read_text()
        if text.count(mutation.old) != 1:
            sys.exit(
                f"{mutation.kernel}: {mutation.old!r} occurs {text.count(mutation.old)} times, not once: mend the list"
            )
        source.write_text(text.replace(mutation.old, mutation.new))
        tests = f"tests/worldmodel/kernels/test_{mutation.kernel}.py"
        for check, command, interpret in (
            ("interpreter", [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "--no-header", tests], "1"),
            ("compile gate", [sys.executable, "-m", "scripts.kernel_report", "--only", mutation.kernel], "0"),
        ):
            environment = os.environ | {"TRITON_INTERPRET": interpret, "PYTHONPATH": folder, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(
                command, cwd=copy, env=environment, capture_output=True, text=True, timeout=1200, check=False
            )
            if done.returncode:
                return f"{check}: {_reason(done.stdout + done.stderr)}"
    return None


def _reason(output: str) -> str:
    """The line that says what failed."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [
        line for line in lines if re.match(r"E\s+\S|FAILED|.*: (spills|has a stack|\d+ registers|requests)", line)
    ]
    return re.sub(r"^E\s+", "", (telling or lines or ["failed"])[0])[:160]


if __name__ == "__main__":
    main()
