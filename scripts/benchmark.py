"""Measure the speeds that matter, beside their bars: `python -m scripts.benchmark [--only NAME] [--out FOLDER]`.

Run it on an idle machine: two threads beside another busy process measure the other process. Each figure is the median
of several runs and becomes `results/speed_<name>.json`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

RUNS = 7  # per figure; the median is quoted, the interval is the bootstrap's of the mean
COMMAND = "python -m scripts.benchmark"
RENDERED = {"HalfCheetah-v5": (50, 150), "Walker2d-v5": (50, 150), "Humanoid-v5": (40, None)}
INTERFACE = dict(cameras={"image": (64, 64, 3)}, action_dim=1, privileged_dim=5, privileged_positions=3)


def main() -> None:
    """Measure, print a table, save."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="*", metavar="NAME", help=f"of: {', '.join(MEASUREMENTS)}")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for the JSON files (results)")
    arguments = parser.parse_args()
    names = arguments.only or list(MEASUREMENTS)
    unknown = sorted(set(names) - set(MEASUREMENTS))
    if unknown:
        parser.error(f"no measurement is called {', '.join(unknown)}; there are {', '.join(MEASUREMENTS)}")

    from rich.console import Console
    from rich.table import Table

    from worldmodel.precision import configure
    from worldmodel.provenance import result_json, write_json

    configure()
    console = Console()
    table = Table("what", "measured", "bar", "met", title="speeds on this machine", title_justify="left")
    for name in names:
        console.print(f"measuring {name} ...")
        for key, claim, values, bar, higher, more in MEASUREMENTS[name]():
            result = result_json(
                claim,
                f"{COMMAND} --only {name}",
                list(range(len(values))),
                values,
                bar,
                higher_is_better=higher,
                **more,
            )
            write_json(arguments.out / f"speed_{key}.json", result)
            met = "-" if bar is None else "yes" if result["met"] else "no"
            table.add_row(claim, f"{result['mean']:,.1f}", "-" if bar is None else f"{bar:,}", met)
    console.print(table)


def timed(call: Callable[[], object], runs: int = RUNS, warm: int = 2) -> list[float]:
    """Seconds of each of `runs` calls, after `warm` that do not count."""
    for _ in range(warm):
        call()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


def untrained_agent(*overrides: str):
    """An agent of the default configuration, changed by `overrides`: speed does not depend on what it learned."""
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    from policies.agent import Agent
    from scripts import settings  # noqa: F401  registers the resolvers
    from worldmodel import Interface

    with initialize_config_module("configs", version_base="1.3"):
        config = OmegaConf.to_container(compose("train", overrides=["run=unused", *overrides]), resolve=True)
    agent = Agent.new(Interface(**INTERFACE), config)
    agent.model.eval()
    return agent


def rendering():
    from envs.benchmark import measure_rendering

    measured = [measure_rendering([id])[0] for id in RENDERED for _ in range(3)]
    for id, (faithful, fast) in RENDERED.items():
        rows = [row for row in measured if row["id"] == id]
        for quality, bar in (("faithful", faithful), ("fast", fast)):
            key = f"rendering_{id.split('-')[0].lower()}_{quality}"
            claim = f"{id} {quality} at 64x64, times the frames of env.render() per core-second"
            difference = max(row[f"{quality}_difference"] for row in rows)
            yield (
                key,
                claim,
                [row[f"{quality}_ratio"] for row in rows],
                bar,
                True,
                {"rows": rows, "difference": difference},
            )


def training_step(agent, windows: int | None = None) -> tuple[Callable[[], object], int]:
    """An update of the world model on made-up pictures, and how many frames it takes."""
    import torch
    from lightning_fabric import Fabric

    from worldmodel.trainer import OptimizerConfig, Trainer

    options = agent.config["training"]
    windows, length = windows or options["batch_size"], options["window"]
    action = torch.rand(windows, length, 1) * 2 - 1
    batch = {
        "image": torch.randint(0, 256, (windows, length + 1, 64, 64, 3), dtype=torch.uint8),
        "privileged": torch.randn(windows, length + 1, 5),
        "action": action,
        "previous_action": torch.cat([torch.zeros(windows, 1, 1), action], 1),
        "reward": torch.rand(windows, length),
        "terminated": torch.zeros(windows, length),
        "valid": torch.ones(windows, length),
        "reference": {"image": torch.randint(0, 256, (options["reference_frames"], 64, 64, 3), dtype=torch.uint8)},
    }
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    trainer = Trainer(fabric, agent.model, OptimizerConfig(**options["optimizer"]), 1000)
    agent.model.train()
    generator = torch.Generator().manual_seed(0)
    return lambda: trainer.update(batch, generator), windows * (length + 1)


def training():
    step, frames = training_step(untrained_agent())
    times = timed(lambda: [step() for _ in range(10)], warm=1)
    claim = "world-model training at tiny, frames of 64x64 a second"
    yield "training", claim, [10 * frames / t for t in times], 3000, True, {"frames_per_update": frames}


def imagination():
    import torch

    from worldmodel import imagine

    agent = untrained_agent()
    with torch.no_grad():
        memory = agent.model.start(512)
        frame = {"image": torch.randint(0, 256, (512, 64, 64, 3), dtype=torch.uint8)}
        for _ in range(agent.model.config.window):
            memory = agent.model.observe(frame, torch.zeros(512, 1), memory)
        actions = torch.rand(512, 15, 1) * 2 - 1
        times = timed(lambda: imagine(agent.model, memory, actions, 15), warm=3)
    claim = "imagination at tiny, batch 512, latent steps a second without gradients"
    yield "imagination", claim, [512 * 15 / t for t in times], 40_000, True, {"horizon": 15}


def acting():
    import torch

    agent = untrained_agent()
    frame = {"image": torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8).numpy()}
    actor = agent.policy("actor")
    milliseconds = [1e3 * t for t in timed(lambda: [actor.act(frame) for _ in range(20)])]
    yield "actor", "the actor's answer, milliseconds a decision", [t / 20 for t in milliseconds], 5, False, {}
    options = agent.config["planner"] | {"samples": 256, "iterations": 4, "horizon": 10}
    planner = agent.policy("planner", planner=options)
    milliseconds = [1e3 * t for t in timed(lambda: planner.act(frame), runs=15, warm=10)]
    claim = "MPPI with 256 samples x 4 iterations x 10 steps, milliseconds a decision"
    yield "planner", claim, milliseconds, 100, False, {"planner": options}


def importing():
    code = "import time, torch; t = time.perf_counter(); import worldmodel; print(time.perf_counter() - t)"
    values = [float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(5)]
    yield "import", "import worldmodel, seconds beyond importing torch", values, 0.3, False, {}
    values = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "scripts.train", "--help"], check=True, stdout=subprocess.DEVNULL)
        values.append(time.perf_counter() - start)
    yield "help", "worldmodel train --help, seconds", values, 2.0, False, {}


MEASUREMENTS = {
    "rendering": rendering,
    "training": training,
    "imagination": imagination,
    "acting": acting,
    "importing": importing,
}

if __name__ == "__main__":
    main()
