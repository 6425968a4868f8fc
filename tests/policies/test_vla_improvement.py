"""The head learns what turned out well in imagination, stays as close to the demonstrations as it is told to, and can
be stopped at any moment."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from test_agent import agent_for
from tiny_encoder import make_tiny_encoder
from vla_parts import INTERFACE, SIZE, config, make_store, statistics

from policies.starts import memories_at
from policies.vla import VLAAgent
from policies.vla.chunks import ChunkSampler
from policies.vla.improvement import Imagination, ImprovementRun, advantage_weights
from worldmodel.adaptation import ADAPTER, Belongs, Merged, Method, attach, identity
from worldmodel.checkpoint import read_meta, save_checkpoint
from worldmodel.data import EpisodeStore
from worldmodel.progress import Progress

HEADS = ("flow", "discrete")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Demonstrations, the name of an encoder that knows nothing, and an untrained world model."""
    folder = tmp_path_factory.mktemp("made")
    encoder = make_tiny_encoder(folder / "encoder", size=SIZE)
    with make_store(folder / "data") as store:
        yield store, encoder, agent_for(INTERFACE)


def upwards(chunks, candidates):
    """Likes chunks for the first dimension of their first two actions."""
    return candidates[:, :, :2, 0].mean(-1)


def start(made, folder, head, score=upwards, **more) -> ImprovementRun:
    from lightning_fabric import Fabric

    store, encoder, _ = made
    own = {"proposals": 8, "temperature": 1.0, "beta": 0.5, "weight_clip": 20.0, "stay_close": 0.0, "horizon": 2}
    settings = config(encoder, head, bins=8) | own | more
    settings["optimizer"] = settings["optimizer"] | {"learning_rate": 1e-2}
    torch.manual_seed(0)
    agent = VLAAgent.new(INTERFACE, settings, statistics())
    fabric = Fabric(accelerator="cpu", devices=1)
    return ImprovementRun(settings, folder, store, Progress(quiet=True), fabric, agent, score)


def proposed(run) -> torch.Tensor:
    """Many chunks of the policy that acts, from some steps of the demonstrations: `[B, K, H, A]`."""
    chunks = ChunkSampler(run.store, 4, 6, seed=0).sample()
    said = run.model.instructions.read(chunks.sentences)
    return run.model.propose(chunks.observation, said, 64, torch.Generator().manual_seed(0))


def finished(run) -> VLAAgent:
    try:
        return run.go()
    finally:
        run.close()


@pytest.mark.parametrize("head", HEADS)
def test_what_turned_out_well_becomes_likelier_and_nothing_but_the_head_moves(made, tmp_path, head):
    run = start(made, tmp_path, head, updates=60)
    before, weights = proposed(run), {key: value.clone() for key, value in run.model.state_dict().items()}
    finished(run)
    after = proposed(run)
    for chunks, sign in ((before, 0), (after, 1)):
        up = (chunks[:, 1:, :2, 0] > 0).float().mean()
        assert up > 0.9 if sign else 0.2 < up < 0.8
    assert after[..., :2, 0].mean() > before[..., :2, 0].mean() + 0.3
    assert all(torch.equal(weights[key], now) for key, now in run.model.state_dict().items() if "head" not in key)
    assert any(not torch.equal(weights[key], now) for key, now in run.model.state_dict().items())
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[-2]["imagined"] > lines[0]["imagined"] and lines[-1]["held_out_imagined"] > 0.2
    assert lines[0]["phase"] == "improve" and "held_out_error" in lines[-1]


@pytest.mark.parametrize("head", HEADS)
def test_a_large_stay_close_keeps_the_policy_at_the_demonstrations(made, tmp_path, head):
    """Their first number is from 0 to .3, and what is liked would be 1: where the policy goes without it."""
    run = start(made, tmp_path, head, updates=60, stay_close=100.0)
    finished(run)
    assert proposed(run)[:, 0, :2, 0].mean() < 0.4


def test_a_run_that_was_stopped_ends_in_the_same_weights(made, tmp_path, monkeypatch):
    monkeypatch.setattr("policies.vla.imitation.UPDATES_PER_CHUNK", 3)
    options = {"updates": 7, "average_rate": 0.1, "stay_close": 1.0}

    def imagination():
        return Imagination(made[2], EpisodeStore.open(made[0].folder), {"name": "reward"}, 2)

    whole = start(made, tmp_path / "whole", "flow", imagination(), **options)
    finished(whole)
    stopped = start(made, tmp_path / "stopped", "flow", imagination(), **options)
    bar = stopped.progress.phase("improve", 3).__enter__()
    stopped._chunk(3, bar)
    stopped.save()
    stopped._chunk(3, bar)  # is lost
    stopped.close()
    again = start(made, tmp_path / "stopped", "flow", imagination(), **options)
    again.restore()
    assert again.updates == 3
    trained = finished(again)
    for one, two in ((whole.model, again.model), (whole.learner, again.learner)):
        for (name, a), b in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
            assert torch.equal(a, b), name
    loaded = VLAAgent.load(tmp_path / "stopped")
    assert loaded.statistics == trained.statistics == statistics()
    assert torch.equal(loaded.model.head.outward.weight, trained.model.head.outward.weight)


def test_weights_are_exponential_advantages_within_a_group():
    scores = torch.tensor([[1.0, 3.0], [10.0, 10.0], [5.0, math.nan]])
    unit = math.sqrt(2 / 5)  # two gaps of one among five numbers
    expected = [[math.exp(-2 / unit), math.exp(2 / unit)], [1.0, 1.0], [1.0, 0.0]]
    torch.testing.assert_close(advantage_weights(scores, 0.5, 1e9), torch.tensor(expected))
    assert advantage_weights(scores, 0.5, 20.0).max() == 20.0
    assert torch.equal(advantage_weights(torch.zeros(2, 3), 0.5, 20.0), torch.ones(2, 3))


def test_memories_of_recorded_steps_are_those_of_a_policy_there(made):
    store, _, world = made
    episodes, steps = np.array([1, 1, 0, 3]), np.array([0, 2, 3, 1])
    memory = memories_at(world.model, store, episodes, steps)
    for row, (episode, step) in enumerate(zip(episodes.tolist(), steps.tolist(), strict=True)):
        recorded, policy = store.read(episode), world.policy("actor")
        for t in range(step + 1):
            policy.see({key: recorded[key][t : t + 1] for key in INTERFACE.observation_keys()})
            policy.previous = torch.from_numpy(recorded["action"][t : t + 1])
        torch.testing.assert_close(memory.belief[row], policy.memory.belief[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(memory.latent[row], policy.memory.latent[0], atol=1e-4, rtol=1e-4)
    long = memories_at(world.model, store, np.array([1]), np.array([7]))  # longer than the window of four
    assert long.valid.all() and torch.isfinite(long.belief).all()


def test_imagined_scores_are_those_of_the_plans(made):
    store, _, world = made
    imagination = Imagination(world, EpisodeStore.open(store.folder), {"name": "reward"}, 3)
    chunks = ChunkSampler(store, 4, 5, seed=0).sample()
    candidates = torch.rand(5, 6, 4, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    scores = imagination(chunks, candidates)
    assert scores.shape == (5, 6) and scores.std(1).min() > 0
    candidates[:, :, 3] = 0.0  # is not imagined
    assert torch.equal(imagination(chunks, candidates), scores)


def test_mistakes_are_told(made, tmp_path):
    for options, told in (
        ({"proposals": 1}, "at least 2"),
        ({"beta": 0.0}, "beta=0.0"),
        ({"horizon": 5}, "chunks have 4 actions"),
    ):
        with pytest.raises(ValueError, match=told):
            start(made, tmp_path, "flow", **options)
    other = agent_for(dataclasses.replace(INTERFACE, action_repeat=2))
    with pytest.raises(ValueError, match="action_repeat 1 of the policy and 2"):
        start(made, tmp_path, "flow", Imagination(other, made[0], {"name": "reward"}, 2))
    with pytest.raises(ValueError, match="objective.image"):
        Imagination(made[2], made[0], {"name": "goal_image"}, 2)


def test_a_policy_that_was_adapted_is_loaded_after_its_improvement_too(made, tmp_path):
    """A prefix is no part of an unadapted model: its checkpoint says that there is one."""
    run = start(made, tmp_path / "base", "flow", updates=1)
    finished(run)
    agent = VLAAgent.load(tmp_path / "base")
    names = attach(agent.model, Method("prefix", prefix_tokens=3))
    belongs = Belongs.of(agent.model, Method("prefix", prefix_tokens=3), agent.path, identity(run.model))
    meta = read_meta(agent.path) | {ADAPTER: belongs.to_dict()}
    agent.path = save_checkpoint(tmp_path / "adapted" / "checkpoints" / "1", {"model": Merged(agent.model)}, {}, meta)
    run = ImprovementRun(
        run.config, tmp_path / "improved", made[0], run.progress, run.fabric, VLAAgent.load(agent.path), upwards
    )
    finished(run)
    loaded = VLAAgent.load(tmp_path / "improved").model.state_dict()
    assert any("prefix" in name for name in names) and any("prefix" in name for name in loaded)
    assert all(torch.equal(value, loaded[name]) for name, value in run.model.state_dict().items())
