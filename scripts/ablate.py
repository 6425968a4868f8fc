"""What each choice in the world model is worth: `python -m scripts.ablate [rows=a,b] [seeds=0,1] [jobs=2]`.

Every row trains the default world model with one thing changed, for 1000 updates on the same 80,000 frames of random
actions in the cartpole, and measures it on held-out episodes. Writes `results/ablations/<row>.json`, which the table in
results/README.md is made from; runs that are already there for the same seeds are made again.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
UPDATES = 1000
TASK_FREE = (
    "collect.steps=80000 collect.max_steps=40 collect.broad_fraction=0.9 policy.switch=0.25 policy.reach=1.3 "
    "policy.noise=0.1 policy.gentle=0.25"
)  # the exploring random policy of `worldmodel train`
MEASURES = ("latent_error_1", "reward_r2_5", "reward_r2_10", "reward_r2_15", "state_r2_10")
RUN = (
    f"training.pretrain.updates={UPDATES} training.online.rounds=0 training.imagine.updates=1 training.compile=false "
    "training.validation_episodes=1 eval.episodes=1 eval.max_steps=1 eval.planner_episodes=0 eval.baselines=[] "
    "logging.video_every=0 logging.wandb=disabled"
)


@dataclass(frozen=True)
class Ablation:
    """One thing changed.

    Attributes:
        why: what it tells.
        train: overrides of `worldmodel train`.
        env: overrides of the env, which other episodes are collected for.
    """

    why: str
    train: str = ""
    env: str = ""


ROWS = {
    "default": Ablation("the configuration as it stands"),
    "no_weight_average": Ablation("the weights of the last update imagine and act", "training.average_rate=1.0"),
    "one_sample_a_pixel": Ablation("is antialiasing worth twice the rendering?", env="env.quality=faithful"),
    "no_state_target": Ablation("pixels alone: the target is where their colours are", env="env.privileged_state=false"),
    "no_state_target_colours_6": Ablation("half as many clusters of colours", "model.colours=6", "env.privileged_state=false"),
    "no_state_target_no_colours": Ablation("pixels alone, without that target", "model.colours=0", "env.privileged_state=false"),
    "no_state_target_no_colours_boost_1": Ablation(
        "the same, the regulariser weak from the beginning", "model.colours=0 training.sigreg_boost=1",
        "env.privileged_state=false",
    ),
    "no_state_target_no_colours_reconstruction": Ablation(
        "can the decoder's gradient replace such a target?", "model.colours=0 model.losses.reconstruction=200",
        "env.privileged_state=false",
    ),
    "positions_weigh_1": Ablation("positions weigh as much as velocities", "model.losses.positions=1"),
    "reconstruction": Ablation("the decoder's gradient beside the state target", "model.losses.reconstruction=0.1"),
    "open_loop_1": Ablation("no multi-step loss beyond one step", "model.open_loop=1"),
    "open_loop_8": Ablation("a longer open loop", "model.open_loop=8"),
    "belief_window_4": Ablation("a shorter past", "model.window=4"),
    "belief_window_16": Ablation("a longer past", "model.window=16 training.window=20 training.batch_size=22"),
    "latent_16": Ablation("less room in the latent", "model.latent_dim=16"),
    "latent_64": Ablation("more room in the latent", "model.latent_dim=64"),
    "sigreg_weak": Ablation("a weaker regulariser", "model.losses.sigreg=0.0005"),
    "sigreg_strong": Ablation("a stronger regulariser", "model.losses.sigreg=0.02"),
    "ensemble_1": Ablation("one transition head", "model.ensemble=1"),
    "one_layer": Ablation("half the transformer", "model.layers=1"),
    "few_reference_frames": Ablation("statistics of as few frames as a batch has windows", "training.reference_frames=32"),
    "long_windows": Ablation("fewer, longer windows", "training.window=28 training.batch_size=16"),
    "adam": Ablation("AdamW learns the hidden layers' matrices too, not Muon", "training.optimizer.matrix_rate=null"),
    "matrix_rate_half": Ablation("half of Muon's rate", "training.optimizer.matrix_rate=5e-3"),
    "matrix_rate_double": Ablation("twice Muon's rate", "training.optimizer.matrix_rate=2e-2"),
    "rate_half": Ablation("half of AdamW's rate", "training.optimizer.learning_rate=5e-4"),
    "rate_double": Ablation("twice AdamW's rate", "training.optimizer.learning_rate=2e-3"),
}  # fmt: skip


def main() -> None:
    """Run the rows that are asked for, `jobs` side by side with one thread each."""
    given = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    rows = given.pop("rows", ",".join(ROWS)).split(",")
    seeds, jobs = [int(seed) for seed in given.pop("seeds", "0").split(",")], int(given.pop("jobs", "2"))
    if given or set(rows) - set(ROWS):
        sys.exit(f"usage: python -m scripts.ablate [rows={','.join(ROWS)}] [seeds=0,1] [jobs=2]")
    for env in {ROWS[row].env for row in rows}:
        _collect(env)
    with ThreadPoolExecutor(jobs) as pool:
        found = {row: [pool.submit(_run, row, seed) for seed in seeds] for row in rows}
        for row, runs in found.items():
            path = write(row, seeds, [run.result() for run in runs])
            print(path, flush=True)


def write(row: str, seeds: list[int], runs: list[dict]) -> Path:
    """results/ablations/<row>.json, whose values are reward R2 at 10 steps."""
    from worldmodel.provenance import result_json, write_json

    command = f"python -m scripts.ablate rows={row} seeds={','.join(map(str, seeds))}"
    claim = f"{row}: {ROWS[row].why}: reward R2 10 steps ahead in open loop, after {UPDATES} updates"
    result = result_json(claim, command, seeds, [run["reward_r2_10"] for run in runs], None, runs=runs)
    result["overrides"] = f"{ROWS[row].train} {ROWS[row].env}".strip()
    return write_json(ROOT / "results" / "ablations" / f"{row}.json", result)


def _episodes(env: str) -> Path:
    name = "".join(letter if letter.isalnum() else "_" for letter in env) or "default"
    return ROOT / "outputs" / "ablations" / f"episodes_{name}"


def _collect(env: str) -> None:
    """The episodes of one env, once."""
    folder = _episodes(env)
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        _worldmodel("collect", f"data={folder}", *env.split(), *TASK_FREE.split())
        (folder / "complete").touch()


def _run(row: str, seed: int) -> dict:
    """One row with one seed: the last report of the open loop."""
    ablation, folder = ROWS[row], ROOT / "outputs" / "ablations" / f"{row}_{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    data = _episodes(ablation.env)
    _worldmodel("train", f"data={data}", f"run={folder}", f"seed={seed}", *RUN.split(), *ablation.train.split())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    report = [line for line in lines if "reward_r2_10" in line][-1]
    seconds = json.loads((folder / "profile.json").read_text())["seconds"]["pretrain: learn"]
    return {"seed": seed, **{key: report[key] for key in MEASURES if key in report}, "train_seconds": seconds}


def _worldmodel(verb: str, *arguments: str) -> None:
    """One thread for each process: two side by side do more than one with two threads."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"scripts.{verb}", *arguments]
    if verb == "train":
        command.append("training.fabric.threads=1")
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


if __name__ == "__main__":
    main()
