"""The training run: killed anywhere it goes on to the same numbers, stops on NaN, and learns from given data."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import signal
import time
from collections.abc import Callable
from copy import deepcopy
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from fork_server import Started
from rich.console import Console
from tiny_encoder import make_tiny_encoder

import envs
from policies.agent import Agent
from policies.pipeline import train
from policies.run import Run
from worldmodel.checkpoint import find_checkpoint, read_meta
from worldmodel.data import EpisodeStore
from worldmodel.metrics import read_metrics
from worldmodel.progress import Progress
from worldmodel.trainer import Diverged

TINY = [
    "preset=debug", "env.image_size=16", "training.collect.steps=120", "training.pretrain.updates=102",
    "training.imagine.updates=6", "training.online.steps=60", "training.validation_episodes=1", "eval.episodes=1",
    "eval.max_steps=10", "logging.checkpoint_minutes=0", "logging.wandb=disabled", "env.max_episode_steps=30",
    "logging.video_every=0", "planner.samples=16", "planner.elites=4", "planner.proposals=2",
]  # fmt: skip


@cache
def configured(*overrides: str) -> dict:
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    from scripts import settings  # noqa: F401  registers the resolver of the run folder's name

    with initialize_config_module("configs", version_base="1.3"):
        config = compose("train", overrides=[*TINY, "run=unused", *overrides])
    config = OmegaConf.to_container(config, resolve=True)
    config.pop("hydra", None)
    return config


def run(folder: Path, *overrides: str, progress: Progress | None = None) -> dict | None:
    config = deepcopy(configured(*overrides))
    make = config["env"] | {"expert": config["training"]["collect"]["expert"] > 0}
    shown = progress or Progress(quiet=True)
    return train(config, folder, partial(envs.make_vector, **make), partial(envs.make, **make), shown)


def numbers(folder: Path) -> list[dict]:
    """All that metrics.jsonl says but the wall time."""
    return [{k: v for k, v in line.items() if k != "seconds"} for line in read_metrics(folder / "metrics.jsonl")]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    agent = Agent.load(folder / "checkpoints" / "last")
    return agent.model.state_dict() | {f"b.{k}": v for k, v in agent.behavior.state_dict().items()}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    run(folder)
    return folder


@pytest.fixture
def unseen(monkeypatch):
    """Of runs whose numbers count, nothing is filmed or drawn."""

    def refuse(*_):
        raise ValueError("not filmed")

    monkeypatch.setattr("policies.finish.film_policy", refuse)
    monkeypatch.setattr("policies.finish.draw_curves", lambda *_, **__: None)


def test_a_run_leaves_everything_that_it_promises(unbroken):
    for name in ("config.yaml", "versions.json", "metrics.jsonl", "eval.json", "curves.png", "videos/final.mp4"):
        assert (unbroken / name).stat().st_size > 0, name
    results = json.loads((unbroken / "eval.json").read_text())
    assert set(results["policies"]) == {"actor", "planner", "random", "hold_still"}
    phases = {line["phase"] for line in numbers(unbroken)}
    assert {"pretrain", "online", "evaluate"} <= phases
    assert find_checkpoint(unbroken).name.isdigit()


def test_an_expert_takes_its_share_of_the_first_steps(unseen, tmp_path):
    half = "env.id=worldmodel/Tabletop-v0", "+env.kwargs.plays=true", "training.collect.expert=0.5"
    run(tmp_path, *half, "training.pretrain.updates=1", "training.imagine.updates=0", "training.online.rounds=0")
    store = EpisodeStore.open(tmp_path / "data")
    names = [info["policy"] for info in store.infos]
    steps = {name: sum(store.lengths[i] for i in range(len(store)) if names[i] == name) for name in set(names)}
    assert set(steps) == {"random", "expert"} and all(60 <= count <= 90 for count in steps.values())


def test_the_same_seed_gives_the_same_numbers(unbroken, unseen, tmp_path):
    run(tmp_path / "again")
    assert numbers(tmp_path / "again") == numbers(unbroken)


def test_latents_are_standardised_by_the_episodes_that_training_began_with(unseen, tmp_path, monkeypatch):
    drawn, frames = [], Run._frames

    def remembered(self, sampler, count=None):
        drawn.append((set(sampler.sample(64)["episode"].tolist()), len(self.store)))
        return frames(self, sampler, count)

    monkeypatch.setattr(Run, "_frames", remembered)
    run(tmp_path / "run", "training.pretrain.updates=4")
    (_, began), (_, grown) = drawn[0], drawn[-1]
    assert grown > began and all(max(episodes) < began for episodes, _ in drawn)


def latest(checkpoints: Path) -> int:
    return max(int(path.name) for path in checkpoints.iterdir() if path.name.isdigit())


def kill(folder: Path, reached: Callable[[], bool], *overrides: str, delay: float = 0.0) -> None:
    """Train in a process of its own; kill it `delay` seconds after it has come so far."""
    process, limit = Started("-m", "scripts.train", *TINY, f"run={folder}", *overrides), time.monotonic() + 120
    while not reached() and not process.ended and time.monotonic() < limit:
        time.sleep(0.02)
    time.sleep(delay)
    os.killpg(process.pid, signal.SIGKILL)
    _, _, errors = process.wait()
    assert reached(), errors


def test_a_run_killed_at_any_moment_resumes_to_the_same_numbers(unbroken, unseen, tmp_path):
    """Thrice: each time what the last kill left is gone on with."""
    folder = tmp_path / "killed"
    checkpoints = folder / "checkpoints"
    # Before the first checkpoint, while the first episodes are collected; at the first; somewhere in the online rounds.
    kill(folder, (folder / "data" / "index.jsonl").exists)
    kill(folder, (checkpoints / "last").exists, "resume=true")
    kill(folder, lambda: latest(checkpoints) >= 7, "resume=true", delay=0.3)
    run(folder, "resume=true")
    assert numbers(folder) == numbers(unbroken)
    mine, theirs = weights(folder), weights(unbroken)
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


def test_a_run_stopped_between_any_two_chunks_resumes_to_the_same_numbers(unbroken, unseen, tmp_path, monkeypatch):
    folder, do = tmp_path / "stopped", Run._do
    for chunk in (3, 5, 6):

        def stop(self, *arguments, chunk=chunk):
            if self.chunk == chunk:
                raise KeyboardInterrupt
            do(self, *arguments)

        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(Run, "_do", stop)
            run(folder, f"resume={str(folder.exists()).lower()}")
    run(folder, "resume=true")
    assert numbers(folder) == numbers(unbroken)


def test_with_semantic_tokens_and_colours_too_a_stopped_run_resumes_to_the_same_numbers(unseen, tmp_path, monkeypatch):
    looks = f"vision_language.name={make_tiny_encoder(tmp_path / 'encoder')}", "env.privileged_state=false"
    log, minutes = io.StringIO(), itertools.count(0, 60)  # so slow that a log gets every line
    few = "training.pretrain.updates=10"
    run(tmp_path / "unbroken", *looks, few, progress=Progress(Console(file=log, width=200), clock=lambda: next(minutes)))
    filling = re.findall(r"^features  (\d+)/(\d+) frames", log.getvalue(), re.MULTILINE)
    assert len(set(filling)) == 3 and all(done == total for done, total in filling)  # of random steps and two rounds
    folder, do = tmp_path / "stopped", Run._do

    def stop(self, *arguments):
        do(self, *arguments)
        if self.chunks[self.chunk].kind == "act":  # no checkpoint knows of its episodes and their features
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Run, "_do", stop)
        run(folder, *looks, few)
    run(folder, "resume=true", *looks, few)
    assert numbers(folder) == numbers(tmp_path / "unbroken")
    assert any({"model/semantic", "model/blobs"} <= line.keys() for line in numbers(folder))
    features = [sorted((name / "data" / "features").rglob("values.bin")) for name in (folder, tmp_path / "unbroken")]
    assert features[0] and [path.read_bytes() for path in features[0]] == [path.read_bytes() for path in features[1]]


def test_not_a_number_stops_with_the_last_good_checkpoint(tmp_path):
    with pytest.raises(Diverged, match="the last good checkpoint is .*checkpoints"):
        run(tmp_path / "run", "training.optimizer.learning_rate=1e18", "training.optimizer.warmup=120")
    meta = read_meta(find_checkpoint(tmp_path / "run"))
    assert meta["updates"]["model"] < 102
    good = Agent.load(tmp_path / "run")
    assert all(torch.isfinite(p).all() for p in good.model.parameters())


def test_offline_training_leaves_the_data_as_it_is(unbroken, unseen, tmp_path):
    data = unbroken / "data"
    before = {p: p.read_bytes() for p in data.rglob("*") if p.is_file()}
    run(tmp_path / "offline", f"data={data}", "training.pretrain.updates=20", "training.online.rounds=1")
    assert {p: p.read_bytes() for p in data.rglob("*") if p.is_file()} == before
    assert not (tmp_path / "offline" / "data").exists()
    assert len(EpisodeStore.open(data)) > 0


@pytest.mark.parametrize("env", ["Acrobot-v1", "worldmodel/Reacher-v0"])
def test_other_envs_run_from_start_to_end(tmp_path, env):
    done = run(tmp_path / "run", f"env.id={env}", "training.online.rounds=1", "training.pretrain.updates=10")
    assert done["results"]["policies"]["actor"]["episodes"]


def test_states_alone_need_no_pictures(tmp_path):
    done = run(tmp_path / "run", "env.id=InvertedPendulum-v5", "env.observation=state", "training.online.rounds=1",
               "training.pretrain.updates=10")  # fmt: skip
    agent = Agent.load(tmp_path / "run")
    assert agent.model.decoder is None and agent.interface.state_dim == 4
    assert done["paths"]["video"].stat().st_size > 0
