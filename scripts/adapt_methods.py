"""What each way to adapt a checkpoint is worth: `python -m scripts.adapt_methods checkpoint=<run folder>
data=<episodes> [methods=none,frozen,prefix,lora,full] [seeds=0] [name=<of the data's folder>] [out=results/adaptation]
[key=value ...]`.

Every method adapts the same checkpoint to the same episodes by `worldmodel adapt`, which takes the further settings,
such as `updates=2000 eval.episodes=20 act_with=planner`, and is evaluated in the episodes' env, or that which `env.*`
says; `none` is the checkpoint as it is. Writes `<out>/<name>/<method>.json` and prints the table that
results/README.md shows of them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from scripts.help import console

ROOT = Path(__file__).parents[1]
METHODS = {  # settings of `worldmodel adapt`
    "none": "method=frozen updates=0 behavior_updates=0", "frozen": "method=frozen", "prefix": "method=prefix",
    "lora": "method=lora", "full": "method=full",
}  # fmt: skip
OWN = ("checkpoint", "data", "methods", "seeds", "name", "out")  # what is not handed on


def main() -> None:
    """Run the methods one after the other."""
    given = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    methods, seeds = given.get("methods", ",".join(METHODS)).split(","), given.get("seeds", "0").split(",")
    if len(given) < len(sys.argv) - 1 or not {"checkpoint", "data"} <= set(given) or set(methods) - set(METHODS):
        sys.exit("usage: " + " ".join((__doc__ or "").split("`")[1].split()))
    name = given.get("name", Path(given["data"]).name)
    out = Path(given.get("out", ROOT / "results" / "adaptation")) / name
    settings = [f"{key}={value}" for key, value in given.items() if key not in OWN]
    for method in methods:
        runs = [run(name, method, int(seed), given["checkpoint"], given["data"], settings) for seed in seeds]
        print(write(out, name, method, runs, sys.argv[1:]), flush=True)
    console().print(table(out.parent), markup=False, soft_wrap=True)


def run(name: str, method: str, seed: int, checkpoint: str, data: str, settings: list[str]) -> dict:
    """One method with one seed: what its adapt.json and eval.json say."""
    folder = ROOT / "outputs" / "adaptation" / f"{name}_{method}_{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "scripts.adapt", f"checkpoint={checkpoint}", f"data={data}", *settings]
    command += [*METHODS[method].split(), f"seed={seed}", f"run={folder}"]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    report = json.loads((folder / "adapt.json").read_text())
    return {"seed": seed} | summary(method, report, json.loads((folder / "eval.json").read_text()))


def summary(method: str, report: dict, evaluation: dict) -> dict:
    """What is kept of one run: its policy's `success` (None where the env does not judge) and `return` over `episodes`;
    `trained_parameters` and their `share`, `kilobytes` on disk and `seconds` of training, 0 where nothing is trained;
    and the losses on held-out episodes."""
    score = evaluation["policies"][evaluation["context"]["policy"]]
    costs = {key: report[key] for key in ("trained_parameters", "share", "kilobytes")}
    costs["seconds"] = sum(report["seconds"].values())
    return {
        "success": None if score["success"] is None else score["success"]["rate"],
        "return": score["return"]["mean"],
        "episodes": len(score["episodes"]),
        **({key: 0 for key in costs} if method == "none" else costs),
        "held_out": report["held_out"],
    }


def write(out: Path, name: str, method: str, runs: list[dict], words: list[str]) -> Path:
    """`<out>/<method>.json`, whose values are success rates, or returns where the env does not judge."""
    from worldmodel.provenance import result_json, write_json

    judged = all(one["success"] is not None for one in runs)
    claim = f"{name}: {method}: {'share of episodes with success' if judged else 'return'} after adapting"
    values = [one["success" if judged else "return"] for one in runs]
    command = " ".join(["python -m scripts.adapt_methods", *words])
    return write_json(
        out / f"{method}.json", result_json(claim, command, [one["seed"] for one in runs], values, None, runs=runs)
    )


def table(folder: Path) -> str:
    """A Markdown table of every `<folder>/<name>/<method>.json`, a method a row."""
    rows = [
        "| episodes | method | success | return | trained weights | adapter, kB | seconds | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    order = list(METHODS)
    for path in sorted(folder.glob("*/*.json"), key=lambda path: (path.parent.name, order.index(path.stem))):
        runs = json.loads(path.read_text())["runs"]
        success, result = _mean(runs, "success", "{:.0%}"), _mean(runs, "return", "{:.4g}")
        weights = f"{_mean(runs, 'trained_parameters', '{:,.0f}')} ({_mean(runs, 'share', '{:.2%}')})"
        costs = f"{_mean(runs, 'kilobytes', '{:,.0f}')} | {_mean(runs, 'seconds', '{:,.0f}')}"
        rows.append(f"| {path.parent.name} | {path.stem} | {success} | {result} | {weights} | {costs} | {len(runs)} |")
    return "\n".join(rows) if len(rows) > 2 else "No adaptation has been measured yet."


def _mean(runs: list[dict], key: str, form: str) -> str:
    values = [run[key] for run in runs if run[key] is not None]
    return form.format(sum(values) / len(values)) if values else "-"


if __name__ == "__main__":
    main()
