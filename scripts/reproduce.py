"""Run a claim again and write its JSON: `python -m scripts.reproduce claim=<name> [seeds=0,1,2]`.

Every claim is a command line and a number read from what the command leaves; nothing is written by hand.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from scripts.documented import nearest

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Claim:
    """A command, what its number means, and the bar.

    Attributes:
        sentence: with the unit.
        overrides: of `worldmodel train`.
        bar: that the mean over seeds has to reach.
        minutes: that each run may take.
    """

    sentence: str
    overrides: tuple[str, ...]
    bar: float
    minutes: float


CLAIMS = {
    "cartpole_swingup": Claim(
        "cartpole swing-up from 64x64 pixels, return (0-1000) of the best policy of the default job, state as a target",
        (), 600, 20,
    ),
}  # fmt: skip


def main() -> None:
    """Run the claim's seeds one after the other, write `results/<claim>.json`, say whether it is met."""
    given = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    if set(given) - {"claim", "seeds"} or "claim" not in given or len(given) != len(sys.argv) - 1:
        sys.exit(f"usage: python -m scripts.reproduce claim={'|'.join(CLAIMS)} [seeds=0,1,2]")
    name = given["claim"]
    if name not in CLAIMS:
        near = nearest(name, list(CLAIMS), count=1)
        sys.exit(
            f"no claim is called {name!r}{f', did you mean {near[0]}?' if near else ''}; there are {', '.join(CLAIMS)}"
        )
    claim, seeds = CLAIMS[name], [int(seed) for seed in given.get("seeds", "0").split(",")]
    runs = [run(name, claim, seed) for seed in seeds]

    from worldmodel.provenance import result_json, write_json

    returns = [one["return"] for one in runs]
    command = f"python -m scripts.reproduce claim={name} seeds={','.join(map(str, seeds))}"
    result = result_json(claim.sentence, command, seeds, returns, claim.bar, runs=runs)
    result["minutes_allowed"] = claim.minutes
    path = write_json(ROOT / "results" / f"{name}.json", result)
    slowest = max(one["minutes"] for one in runs)
    print(f"{path}: mean {result['mean']:.0f}, bar {claim.bar}, slowest run {slowest:.1f} of {claim.minutes} minutes")
    sys.exit(0 if result["met"] and slowest <= claim.minutes else 1)


def run(name: str, claim: Claim, seed: int) -> dict:
    """One run of `worldmodel train`, and what it reached."""
    folder = ROOT / "outputs" / "reproduce" / f"{name}_{seed}_{time.strftime('%Y%m%d_%H%M%S')}"
    command = [sys.executable, "-m", "scripts.train", f"run={folder}", f"seed={seed}", *claim.overrides]
    began = time.monotonic()
    subprocess.run(command, check=True, cwd=ROOT)
    minutes = (time.monotonic() - began) / 60
    results = json.loads((folder / "eval.json").read_text())
    policies = {policy: score["return"] for policy, score in results["policies"].items()}
    best = max(("actor", "planner"), key=lambda policy: policies[policy]["mean"])
    last = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines() if "reward_r2_10" in line][
        -1
    ]
    return {
        "seed": seed,
        "return": policies[best]["mean"],
        "best": best,
        "minutes": round(minutes, 2),
        "env_steps": last["env_steps"],
        "policies": policies,
        "open_loop": {key: value for key, value in last.items() if "_r2_" in key or "_error_" in key},
    }


if __name__ == "__main__":
    main()
