"""Measure the speeds that matter, beside their bars: `python -m scripts.benchmark [--only NAME] [--out FOLDER]`.

Run it on an idle machine: two threads beside another busy process measure the other process. Each figure is the median
of several runs and becomes `results/speed_<name>.json`.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

RUNS = 7  # per figure; the median is quoted, the interval is the bootstrap's of the mean
COMMAND = "python -m scripts.benchmark"
RENDERED = {"HalfCheetah-v5": (50, 150), "Walker2d-v5": (50, 150), "Humanoid-v5": (40, None)}
EPISODES = 8000  # frames on disk, 100 MB, that a benchmark of training draws from
INTERFACE = {"cameras": {"image": (64, 64, 3)}, "action_dim": 1, "privileged_dim": 5, "privileged_positions": 3}


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

    from scripts.results import number
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
            table.add_row(claim, number(result["mean"]), "-" if bar is None else f"{bar:,}", met)
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


def untrained_agent(*overrides: str, interface: dict | None = None):
    """An agent of the default configuration, changed by `overrides`: speed does not depend on what it learned. Its env is
    like the default's, or has the `interface` that is given."""
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    from policies.agent import Agent
    from scripts import settings  # noqa: F401  registers the resolvers
    from worldmodel import Interface

    with initialize_config_module("configs", version_base="1.3"):
        config = OmegaConf.to_container(compose("train", overrides=["run=unused", *overrides]), resolve=True)
    agent = Agent.new(Interface(**(interface or INTERFACE)), config)
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


def tabletop():
    from envs.benchmark import measure_stepping

    for embodiment in ("pusher", "gripper"):
        frames = measure_stepping("worldmodel/Tabletop-v0", RUNS, kwargs={"embodiment": embodiment}, image_size=64)
        claim = f"worldmodel/Tabletop-v0 with a {embodiment}, frames of 64x64 per core-second, resets included"
        yield f"tabletop_{embodiment}", claim, frames, 1000, True, {}


def training_step(agent, windows: int | None = None) -> tuple[Callable[[], object], int]:
    """An update of the world model on made-up pictures, and how many frames it takes."""
    import torch

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
    trainer, generator = learner(agent)
    return lambda: trainer.update(batch, generator), windows * (length + 1)


def learner(agent):
    """A trainer of the agent's world model and the generator that its updates draw from."""
    import torch
    from lightning_fabric import Fabric

    from worldmodel.trainer import OptimizerConfig, Trainer

    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    agent.model.train()
    trainer = Trainer(fabric, agent.model, OptimizerConfig(**agent.config["training"]["optimizer"]), 1000)
    return trainer, torch.Generator().manual_seed(0)


def training():
    step, frames = training_step(untrained_agent())
    times = timed(lambda: [step() for _ in range(10)], warm=1)
    claim = "world-model training at tiny, frames of 64x64 a second"
    yield "training", claim, [10 * frames / t for t in times], 3000, True, {"frames_per_update": frames}


def semantic_tokens():
    times: dict[str, list[float]] = {"off": [], "embedded": []}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        interface = record_episodes(data)
        steps = {
            looks: recorded_step(untrained_agent(f"vision_language={looks}", interface=interface), data)
            for looks in times
        }
        for _ in range(RUNS + 1):  # in turn, so that whatever else the machine does meets both
            for looks, step in steps.items():
                times[looks] += timed(lambda step=step: [step() for _ in range(10)], runs=1, warm=0)
    rates = {looks: [10 / t for t in found[1:]] for looks, found in times.items()}  # the first of each warmed it up
    ratios = [slower / plain for slower, plain in zip(rates["embedded"], rates["off"], strict=True)]
    claim = (
        "world-model training with semantic tokens at tiny, from episodes with cached features: updates a second as a "
        "share of those without semantic tokens"
    )
    yield "semantic_tokens", claim, ratios, 0.667, True, {"updates_per_second": rates}


def record_episodes(folder: Path) -> dict:
    """`EPISODES` frames of random actions in the default env; returns its interface."""
    import envs
    from policies.baselines import RandomPolicy
    from policies.collect import collect
    from worldmodel import Interface
    from worldmodel.data import EpisodeStore

    with envs.make_vector(8, id="worldmodel/CartpoleSwingup-v0") as vector:
        interface = Interface(**vector.interface)
        with EpisodeStore.create(folder, interface, {}) as store:
            policy = RandomPolicy(interface=interface, seed=0)
            collect(policy, vector, store, EPISODES, itertools.count(), broad_fraction=0.9, max_steps=40)
        return vector.interface


def recorded_step(agent, folder: Path) -> Callable[[], object]:
    """An update of the world model on recorded episodes, as in a run: windows and reference frames are drawn, with cached
    semantic tokens where the model has them, and the weights' average follows."""
    from worldmodel.averaging import follow
    from worldmodel.data import EpisodeStore, WindowSampler
    from worldmodel.vision_language.cache import FeatureCache

    options, model = agent.config["training"], agent.model
    store = EpisodeStore.open(folder)
    if model.semantics is not None:
        store.features = FeatureCache(store, model.semantics.described)
        store.features.fill(model.semantics.encoder())
    windows = WindowSampler(store, options["window"], options["batch_size"], seed=0)
    singles = WindowSampler(store, 1, options["reference_frames"], seed=1)
    trainer, generator = learner(agent)
    average = copy.deepcopy(model)

    def step() -> None:
        frames = {key: value[:, 0] for key, value in model.seen(singles.sample()).items()}
        trainer.update(windows.sample() | {"reference": frames}, generator)
        follow(average, model, options["average_rate"], trainer.updates)

    return step


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
    "tabletop": tabletop,
    "training": training,
    "semantic_tokens": semantic_tokens,
    "imagination": imagination,
    "acting": acting,
    "importing": importing,
}

if __name__ == "__main__":
    main()
