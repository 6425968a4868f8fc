"""`worldmodel adapt`: a small adapter learns on other episodes, its checkpoint acts like any other, goes on after a
stop to the same numbers, and is refused by any base but its own."""

from __future__ import annotations

import itertools
import json
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_agent import MODEL, PLANNER
from tiny_encoder import make_tiny_encoder
from vla_parts import PUSH, SIZE, make_store
from vla_parts import config as vla_config

import envs
from policies.adapt import adapt
from policies.adaptation import Adaptation
from policies.agent import Agent
from policies.baselines import RandomPolicy
from policies.collect import collect
from policies.run import Run
from policies.vla import VLAAgent
from policies.vla.chunks import ChunkSampler
from policies.vla.imitation import ImitationRun
from worldmodel import Interface
from worldmodel.adaptation import Method
from worldmodel.checkpoint import CheckpointError, find_checkpoint, save_checkpoint
from worldmodel.data import EpisodeStore
from worldmodel.progress import Progress

ENV = {"id": "worldmodel/CartpoleSwingup-v0", "image_size": 16, "max_episode_steps": 12}
OPTIMIZER = {"learning_rate": None, "warmup": 1, "final_rate": 1.0, "weight_decay": 0.0, "clip": 1.0}
ADAPT = {
    "method": "lora", "adapter": "merged", "rank": 4, "alpha": 8.0, "prefix_tokens": 3, "encoder_rank": 0, "updates": 4,
    "behavior_updates": 2, "batch_size": None, "average_rate": None, "optimizer": OPTIMIZER, "seed": 0, "resume": False,
    "fabric": {}, "instruction": None, "successful": True, "validate_every": 1000, "captions_weight": 0.0,
    "captions_batch": 4, "captions_pictures": 8, "logging": {"wandb": "disabled", "every": 2, "checkpoint_minutes": 0},
}  # fmt: skip
TRAINING = {
    "batch_size": 4, "window": 6, "reference_frames": 16, "recent_fraction": 0.5, "recent_episodes": 4,
    "average_rate": 0.5, "collect": {"steps": 0, "policy": {"gentle": 0.0}},
    "online": {"rounds": 3, "steps": 10, "train_ratio": 16, "behavior_ratio": 1.0},
}  # fmt: skip


def fabric():
    from lightning_fabric import Fabric

    return Fabric(accelerator="cpu", devices=1)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A world model's checkpoint, and episodes of its env."""
    folder = tmp_path_factory.mktemp("made")
    vector = envs.make_vector(2, **ENV)
    interface = Interface(**vector.interface)
    with EpisodeStore.create(folder / "data", interface, {"env": ENV}) as store:
        collect(RandomPolicy(interface=interface, seed=0), vector, store, 72, itertools.count())
    vector.close()
    save_base(folder / "base", interface)
    return folder


def save_base(folder, interface, seed: int = 0) -> None:
    torch.manual_seed(seed)
    behavior = {"width": 32, "horizon": 3, "starts": 8}
    config = {"model": MODEL, "behavior": behavior, "planner": PLANNER, "training": TRAINING, "env": ENV}
    config |= {"objective": {"name": "reward"}}
    agent = Agent.new(interface, config)
    agent.model.transition.heads.last.data.normal_(std=0.1)
    meta = {"interface": interface.to_dict(), "config": config, "semantics": None}
    modules = {"model": agent.model, "behavior": agent.behavior}
    save_checkpoint(folder / "checkpoints" / "00001", modules, {}, meta)


def adapted(made, folder, base="base", data="data", kind=Agent, **options):
    agent = kind.load(made / base)
    config = agent.config | ADAPT | {"data": str(made / data), **options}
    make = partial(envs.make_vector, **ENV)
    return adapt(config, folder, agent, make, Progress(quiet=True), fabric())


def weights(agent) -> dict[str, torch.Tensor]:
    behavior = agent.behavior.state_dict() if hasattr(agent, "behavior") else {}
    return agent.model.state_dict() | {f"behavior.{name}": value for name, value in behavior.items()}


def same(one: dict, two: dict, **tolerance) -> bool:
    assert set(one) == set(two)
    return all(torch.allclose(one[name], two[name], **tolerance) for name in one)


@pytest.mark.parametrize("method", ["full", "lora", "prefix", "frozen"])
def test_a_world_model_is_adapted_and_says_what_that_took(made, tmp_path, method):
    done = adapted(made, tmp_path / "run", method=method)
    report = json.loads((tmp_path / "run" / "adapt.json").read_text())
    base, loaded = weights(Agent.load(made / "base")), weights(Agent.load(tmp_path / "run"))
    assert same(weights(done), loaded)
    encoder = {name for name in base if name.startswith(("encoder.", "decoder.", "transition.reward_scale"))}
    assert all(torch.equal(base[name], loaded[name]) for name in encoder) == (method != "full")
    assert not torch.equal(base["transition.heads.last"], loaded["transition.heads.last"])
    assert any(not torch.equal(base[name], loaded[name]) for name in base if name.startswith("behavior.actor"))
    assert report["parameters"] == sum(p.numel() for p in Agent.load(made / "base").model.parameters())
    assert report["share"] == 1 if method == "full" else 0 < report["share"] < 0.3
    assert report["held_out"]["before"]["loss"] != report["held_out"]["after"]["loss"]
    assert 4 * report["trained_parameters"] < 1000 * report["kilobytes"] and report["seconds"]["pretrain: learn"] > 0
    policy = Agent.load(tmp_path / "run").policy("actor")
    assert policy.act({"image": np.zeros((2, 16, 16, 3), np.uint8)}).shape == (2, 1)


def test_an_adapter_apart_acts_as_the_merged_model_and_with_its_own_base_alone(made, tmp_path):
    interface = Agent.load(made / "base").interface
    save_base(made / "other", interface)
    merged = adapted(made, tmp_path / "merged")
    adapted(made, tmp_path / "separate", base="other", adapter="separate")
    files = {path.name for path in find_checkpoint(tmp_path / "separate").iterdir()}
    assert "adapter.safetensors" in files and "model.safetensors" not in files
    assert same(weights(merged), weights(Agent.load(tmp_path / "separate")), atol=1e-5)

    save_base(made / "other", interface, seed=1)
    with pytest.raises(CheckpointError, match=r"trained on the weights of .*other.* and these are others"):
        Agent.load(tmp_path / "separate")
    (made / "other" / "checkpoints" / "00001" / "checkpoint.json").unlink()
    with pytest.raises(CheckpointError, match="put it back, or adapt with adapter=merged"):
        Agent.load(tmp_path / "separate")


def test_an_adapted_model_is_a_base_too(made, tmp_path):
    adapted(made, made / "first", method="prefix")
    again = adapted(made, tmp_path / "again", base="first", method="lora", adapter="separate", behavior_updates=0)
    assert any(".prefix." in name for name in again.model.state_dict())
    assert same(weights(again), weights(Agent.load(tmp_path / "again")))


@pytest.mark.parametrize(("method", "adapter"), [("full", "merged"), ("lora", "separate"), ("prefix", "merged")])
def test_a_run_that_was_stopped_ends_in_the_same_weights(made, tmp_path, monkeypatch, method, adapter):
    whole = adapted(made, tmp_path / "whole", method=method, adapter=adapter)

    def stop(self, *arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_behave", stop)
        with pytest.raises(KeyboardInterrupt):
            adapted(made, tmp_path / "stopped", method=method, adapter=adapter)
    again = adapted(made, tmp_path / "stopped", method=method, adapter=adapter, resume=True)
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(again)[name]), name
    with pytest.raises(CheckpointError, match="go on with its own checkpoint and settings"):
        adapted(made, tmp_path / "stopped", method=method, adapter=adapter, rank=2, resume=True)


def test_what_cannot_be_adapted_is_refused(made, tmp_path):
    with pytest.raises(ValueError, match="set adapter=merged"):
        adapted(made, tmp_path, method="full", adapter="separate")
    with pytest.raises(ValueError, match="adapter=apart is not one of"):
        adapted(made, tmp_path, adapter="apart")
    meta = find_checkpoint(made / "base") / "checkpoint.json"
    text = meta.read_text()
    meta.write_text(json.dumps(json.loads(text) | {"sentence": "the pole stands upright"}))
    with pytest.raises(ValueError, match="set behavior_updates=0"):
        adapted(made, tmp_path)
    meta.write_text(text)
    with make_store(tmp_path / "other") as other, pytest.raises(ValueError, match="don't fit"):
        Adaptation(Agent.load(made / "base"), Method(), False, other)


# Policies


@pytest.fixture(scope="module")
def imitated(tmp_path_factory):
    """A policy's checkpoint and its demonstrations."""
    folder = tmp_path_factory.mktemp("imitated")
    encoder = make_tiny_encoder(folder / "encoder", size=SIZE)
    with make_store(folder / "data", lengths=(5, 9, 3)) as store:
        run = ImitationRun(vla_config(encoder) | {"updates": 2}, folder / "base", store, Progress(quiet=True), fabric())
        run.go()
        run.close()
    return folder


@torch.no_grad()
def loss_on(imitated, agent: VLAAgent) -> float:
    """Of steps of the demonstrations that are trained on."""
    with EpisodeStore.open(imitated / "data") as store:
        chunks = ChunkSampler(store, agent.model.config.chunk, 64, seed=1).sample()
    said = agent.model.instructions.read(chunks.sentences, agent.model.device)
    drawn = torch.Generator().manual_seed(0)
    return float(agent.model.loss(chunks.observation, said, chunks.actions, chunks.mask, drawn))


@pytest.mark.parametrize(
    ("method", "adapter", "encoder_rank"),
    [
        ("full", "merged", 0),
        ("lora", "separate", 2),
        ("lora", "merged", 2),
        ("prefix", "separate", 0),
        ("frozen", "merged", 2),
    ],
)
def test_a_policy_is_adapted(imitated, tmp_path, method, adapter, encoder_rank):
    options = {"method": method, "adapter": adapter, "encoder_rank": encoder_rank, "updates": 12, "batch_size": 16}
    done = adapted(imitated, tmp_path, kind=VLAAgent, average_rate=1.0, **options)
    report = json.loads((tmp_path / "adapt.json").read_text())
    base, loaded = VLAAgent.load(imitated / "base"), VLAAgent.load(tmp_path)
    assert same(weights(done), weights(loaded)) and loaded.statistics == base.statistics
    assert report["held_out"]["before"]["loss"] != report["held_out"]["after"]["loss"]
    assert loss_on(imitated, loaded) < loss_on(imitated, base)
    assert report["share"] == 1 if method == "full" else 0 < report["share"] < 0.3
    kept = {
        name for name, value in base.model.state_dict().items() if torch.equal(value, loaded.model.state_dict()[name])
    }
    assert {name.split(".")[0] for name in kept} >= ({"stems", "semantic", "state"} if method != "full" else set())
    trained = load_file(report["file"])
    if method != "full":
        assert all("lora_" in name or name.startswith("head.outward") or ".prefix." in name for name in trained)
    assert any(name.startswith("adapters.") for name in trained) == bool(encoder_rank)
    assert (loaded.model.adapters is not None) == bool(encoder_rank)
    seen = {"image": np.zeros((1, SIZE, SIZE, 3), np.uint8), "state": np.zeros((1, 3), np.float32)}
    chunks = [agent.predict(seen, [PUSH], torch.Generator().manual_seed(0)) for agent in (done, loaded)]
    np.testing.assert_allclose(*chunks, atol=1e-5)


def test_a_policys_run_that_was_stopped_ends_in_the_same_weights(imitated, tmp_path, monkeypatch):
    monkeypatch.setattr("policies.vla.imitation.UPDATES_PER_CHUNK", 2)
    options = {"kind": VLAAgent, "encoder_rank": 2, "adapter": "separate"}
    whole = adapted(imitated, tmp_path / "whole", **options)
    chunk = ImitationRun._chunk

    def stop(self, count, bar):
        if self.updates:
            raise KeyboardInterrupt
        chunk(self, count, bar)

    with monkeypatch.context() as patch:
        patch.setattr(ImitationRun, "_chunk", stop)
        with pytest.raises(KeyboardInterrupt):
            adapted(imitated, tmp_path / "stopped", **options)
    again = adapted(imitated, tmp_path / "stopped", resume=True, **options)
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(again)[name]), name
