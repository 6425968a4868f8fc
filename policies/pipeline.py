"""The whole of `worldmodel train`: set up, run the schedule, evaluate, leave something to look at."""

from __future__ import annotations

import time
from pathlib import Path

from policies.agent import Agent
from policies.finish import finish
from policies.run import Run
from worldmodel.data import check_disk, footprint
from worldmodel.interface import Interface
from worldmodel.precision import configure
from worldmodel.progress import Progress
from worldmodel.provenance import commit, machine, versions, write_json


def train(config, folder: Path, make_vector, make_env, progress: Progress | None = None) -> dict | None:
    """The whole of `worldmodel train`.

    Args:
        config: resolved, as composed from configs/train.yaml.
        folder: the run folder.
        make_vector: `make_vector(count, workers=0)` gives a vector env.
        make_env: gives one env.
        progress: bars; the terminal's by default.

    Returns:
        what `policies.finish.finish` does, on the first process; None elsewhere. `profile.json` says where the time went.

    Raises:
        Diverged, CheckpointError, ValueError, OSError: with what to do.
    """
    from lightning_fabric import Fabric
    from omegaconf import OmegaConf

    config = OmegaConf.to_container(config, resolve=True) if not isinstance(config, dict) else config
    options = dict(config["training"]["fabric"])
    configure(options.pop("threads"))
    fabric = Fabric(**options)
    fabric.launch()
    folder = Path(fabric.broadcast(str(folder)))
    progress = progress or Progress(quiet=not fabric.is_global_zero)
    if fabric.is_global_zero:
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(OmegaConf.create(config), folder / "config.yaml")
        write_json(folder / "versions.json", {"versions": versions(), "commit": commit(), "machine": machine()})
        env = make_env()
        neutral, interface = [float(value) for value in env.neutral_action], Interface(**env.interface)
        env.close()
        announce(config, folder, interface, progress)
    run = Run(config, folder, make_vector, progress, fabric)
    try:
        if config["resume"]:
            run.restore()
        run.go()
        if not run.first:
            return None
        ready = time.monotonic()
        best = Agent.load(folder)
        done = finish(best, config, folder, make_vector, neutral, progress)
        run.profile["finish: evaluate, film, draw"] = time.monotonic() - ready
        write_json(folder / "profile.json", {"seconds": run.profile, "total": sum(run.profile.values())})
        scores = done["results"]["policies"]
        run.log("evaluate", **{f"{name}_return": score["return"]["mean"] for name, score in scores.items()})
        progress.line(done["table"])
        return done
    finally:
        run.close()


def announce(config: dict, folder: Path, interface: Interface, progress: Progress) -> None:
    """Say what the run needs before it starts.

    Raises:
        OSError: the disk lacks the space.
    """
    training = config["training"]
    steps = training["collect"]["steps"] + training["online"]["rounds"] * training["online"]["steps"]
    length = training["collect"]["episode_steps"] or 500
    need = footprint(
        interface, steps, episode_length=length, batch_size=training["batch_size"], window=training["window"]
    )
    if config["data"] is None:
        free = check_disk(folder, need["disk_bytes"])
        progress.line(
            f"{config['env']['id']} in {folder}: {steps:,} steps, {need['disk_bytes'] / 1e9:.2f} GB of disk "
            f"({free / 1e9:.0f} GB free), {need['ram_bytes'] / 1e6:.0f} MB of memory for data"
        )
    else:
        progress.line(f"{config['env']['id']} in {folder}: offline, on the episodes in {config['data']}")
