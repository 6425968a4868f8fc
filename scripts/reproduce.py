"""Run a claim again: `python -m scripts.reproduce claim=<name> [seeds=0,1,2] [keep=true] [trained=<run folder>]`.

Writes `results/<name>.json`, a video of its first seed to `results/gallery/`, and says whether the claim is met and
whether it agrees with the numbers that stood there. With `keep=true` the runs of other seeds that stand there stay. With
`trained` the claim is measured on a finished training run of the same settings and seed: several claims can share one.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from scripts import settings
from scripts.claims import CLAIMS, Claim, read_run
from scripts.documented import nearest

ROOT = Path(__file__).parents[1]
IMPLIED = ("run", "env.goal_image", "model.losses.reward")  # settings that training derives from others
GALLERY_CRF = "27"  # x264's quality for the repository: a tenth of the size of a run's own videos


def main() -> None:
    """Run the claim's seeds one after the other."""
    given = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    if set(given) - {"claim", "seeds", "keep", "trained"} or "claim" not in given or len(given) != len(sys.argv) - 1:
        sys.exit(
            f"usage: python -m scripts.reproduce claim={'|'.join(CLAIMS)} [seeds=0,1,2] [keep=true] [trained=<run folder>]"
        )
    name = given["claim"]
    if name not in CLAIMS:
        near = nearest(name, list(CLAIMS), count=1)
        sys.exit(
            f"no claim is called {name!r}{f', did you mean {near[0]}?' if near else ''}; there are {', '.join(CLAIMS)}"
        )
    claim, path = CLAIMS[name], ROOT / "results" / f"{name}.json"
    before = json.loads(path.read_text()) if path.exists() else None
    runs = standing(before) if before and given.get("keep") == "true" else {}
    seeds = [int(seed) for seed in given.get("seeds", "0").split(",")]
    trained = Path(given["trained"]).resolve() if "trained" in given else None
    if trained is not None and (wrong := unfit(trained, claim, seeds)):
        sys.exit(f"trained={trained}: {wrong}")
    for seed in seeds:
        runs[seed] = run(name, claim, seed, trained)
        result = write(path, name, claim, [runs[key] for key in sorted(runs)])
    slowest = max(one["minutes"] for one in runs.values())
    bar = "none" if claim.bar is None else f"{claim.bar:g}"
    print(f"{path}: mean {result['mean']:.4g}, bar {bar}, slowest run {slowest:.1f} of {claim.minutes:g} minutes")
    if before is not None:
        print(agreement(before, result))
    sys.exit(1 if result["met"] is False else 0)


def write(path: Path, name: str, claim: Claim, runs: list[dict]) -> dict:
    """The claim's JSON; one with a bar is met if the mean reaches it and no run took longer than allowed."""
    from worldmodel.provenance import result_json, write_json

    seeds = [run["seed"] for run in runs]
    command = f"python -m scripts.reproduce claim={name} seeds={','.join(map(str, seeds))}"
    result = result_json(claim.sentence, command, seeds, [run["value"] for run in runs], claim.bar, runs=runs)
    result["minutes_allowed"] = claim.minutes
    result["in_time"] = all(run["minutes"] <= claim.minutes for run in runs)
    result["met"] = result["met"] and result["in_time"]
    write_json(path, result)
    return result


def standing(result: dict) -> dict[int, dict]:
    """The runs of a claim's JSON by their seeds; an only run without machine and commit takes those of the file, which
    with several runs are those of the last alone."""
    made = {key: result[key] for key in ("machine", "commit")} if len(result["runs"]) == 1 else {}
    return {run["seed"]: made | run for run in result["runs"]}


def agreement(before: dict, after: dict) -> str:
    """Whether two results of one claim agree: each seed that both have to the digit, or the intervals of the means."""
    old, new = (dict(zip(result["seeds"], result["values"], strict=True)) for result in (before, after))
    shared = sorted(old.keys() & new.keys())
    differing = [f"seed {seed}: {old[seed]:.4g} -> {new[seed]:.4g}" for seed in shared if old[seed] != new[seed]]
    if shared and not differing:
        return "agrees: every seed that was run before gave the same number"
    (low, high), (other_low, other_high) = (
        (result["interval"]["low"] or min(result["values"]), result["interval"]["high"] or max(result["values"]))
        for result in (before, after)
    )
    verdict = "agrees within the intervals" if low <= other_high and other_low <= high else "does not agree"
    return f"{verdict}: {'; '.join(differing) or 'no seed in common'}"


def unfit(folder: Path, claim: Claim, seeds: list[int]) -> str:
    """Why a training run can't stand for the claim's own; empty where it can."""
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    if len(seeds) != 1:
        return f"one run has one seed, and seeds={','.join(map(str, seeds))} are {len(seeds)}"
    missing = [name for name in ("config.yaml", "eval.json", "profile.json") if not (folder / name).is_file()]
    if missing:
        return f"no finished run of worldmodel train: it has no {' and no '.join(missing)}"
    overrides = settings.check("train", [*claim.train.split(), f"seed={seeds[0]}", "run=unused"])
    with initialize_config_module("configs", version_base="1.3"):
        expected = _flat(OmegaConf.to_container(compose("train", overrides=overrides), resolve=True))
    found = _flat(OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"), resolve=True))
    wrong = [
        f"{key} is {found.get(key)!r}, not {expected.get(key)!r}"
        for key in sorted(expected.keys() | found.keys())
        if key not in IMPLIED and expected.get(key) != found.get(key)
    ]
    return f"trained under other settings: {'; '.join(wrong)}" if wrong else ""


def _flat(config: dict, prefix: str = "") -> dict:
    """Values by dotted names."""
    flat = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def run(name: str, claim: Claim, seed: int, trained: Path | None = None) -> dict:
    """One run of the claim's command and of what comes then, and what it reached.

    Args:
        trained: a finished training run to take instead of a new one; its time counts.
    """
    from worldmodel.provenance import commit, machine

    place = ROOT / "outputs" / "reproduce" / f"{name}_{seed}_{time.strftime('%Y%m%d_%H%M%S')}"
    folder, began, made = trained or place, time.monotonic(), {}
    if trained is None:
        command = [sys.executable, "-m", "scripts.train", f"run={folder}", f"seed={seed}", *claim.train.split()]
        subprocess.run(command, check=True, cwd=ROOT)
    minutes, then = 0.0, None
    if trained is not None:
        minutes = json.loads((folder / "profile.json").read_text())["total"] / 60
        made = {"trained_by": json.loads((folder / "versions.json").read_text())["commit"]}
    if claim.then:
        verb, *words = claim.then
        then = place / verb
        given = [f"checkpoint={folder}", f"run={then}", f"seed={seed}", *words]
        subprocess.run([sys.executable, "-m", f"scripts.{verb}", *given], check=True, cwd=ROOT)
    minutes += (time.monotonic() - began) / 60
    for kind in () if claim.then else ("final", "goals"):  # they show the policy that was trained
        video = folder / "videos" / f"{kind}.mp4"
        if video.exists() and seed == 0:
            exhibit(video, ROOT / "results" / "gallery" / (f"{name}.mp4" if kind == "final" else f"{name}_{kind}.mp4"))
    return {"machine": machine(), "commit": commit()} | made | read_run(claim, folder, seed, minutes, then)


def exhibit(video: Path, path: Path) -> None:
    """A smaller copy of a video for the repository; the same one where ffmpeg is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        from policies.video import ffmpeg_path

        command = [ffmpeg_path(), "-y", "-v", "error", "-i", str(video), "-crf", GALLERY_CRF, "-preset", "slow"]
        subprocess.run([*command, "-movflags", "+faststart", str(path)], check=True)
    except (RuntimeError, subprocess.CalledProcessError):
        shutil.copyfile(video, path)


if __name__ == "__main__":
    main()
