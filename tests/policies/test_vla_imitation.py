"""Training on demonstrations can be stopped at any moment, ends in a checkpoint that acts the same, and can be co-trained
on captions."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tiny_encoder import make_tiny_encoder
from vla_parts import HANG, INTERFACE, PUSH, SIZE, config, make_agent, make_store

from policies.agent import Agent
from policies.vla import StatisticsError, VLAAgent
from policies.vla.captions import CaptionBatch, CaptionHead
from policies.vla.imitation import ImitationRun
from worldmodel.checkpoint import CheckpointError, find_checkpoint
from worldmodel.progress import Progress


class Captions:
    """Pictures of which the first sentence is true, or the second."""

    pictures = np.random.default_rng(0).integers(0, 256, (8, SIZE, SIZE, 3), np.uint8)

    def draw(self, count, seed):
        rows = np.random.default_rng(seed).integers(8, size=count)
        first = np.array([[1.0, 0.0] if row % 2 else [0.0, 1.0] for row in rows], np.float32)
        return rows, [PUSH, HANG], first, np.ones((count, 2), bool)


def start(store, folder, settings: dict, captions=None) -> ImitationRun:
    from lightning_fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=1)
    return ImitationRun(settings, folder, store, Progress(quiet=True), fabric, captions)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Demonstrations, and the name of an encoder that knows nothing."""
    folder = tmp_path_factory.mktemp("made")
    encoder = make_tiny_encoder(folder / "encoder", size=SIZE)
    store = make_store(folder / "data")
    yield store, encoder
    store.close()


@pytest.mark.parametrize(("head", "captions_weight"), [("flow", 0.5), ("discrete", 0.0)])
def test_a_run_that_was_stopped_ends_in_the_same_weights(made, tmp_path, monkeypatch, head, captions_weight):
    store, encoder = made
    monkeypatch.setattr("policies.vla.imitation.UPDATES_PER_CHUNK", 4)
    settings = config(encoder, head) | {"captions_weight": captions_weight, "average_rate": 0.1}
    captions = Captions() if captions_weight else None
    whole = start(store, tmp_path / "whole", settings, captions)
    whole.go()
    whole.close()

    stopped = start(store, tmp_path / "stopped", settings, captions)
    stopped._chunk(4, stopped.progress.phase("imitate", 4).__enter__())
    stopped.save()
    stopped._chunk(4, stopped.progress.phase("imitate", 4).__enter__())  # is lost
    stopped.close()
    again = start(store, tmp_path / "stopped", settings, captions)
    again.restore()
    assert again.updates == 4
    again.go()
    again.close()

    for one, two in ((whole.model, again.model), (whole.learner, again.learner)):
        for (name, a), b in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
            assert torch.equal(a, b), name
    lines = [
        [{**json.loads(line), "seconds": 0} for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("whole", "stopped")
    ]
    assert lines[0] == lines[1] and lines[0][-1]["step"] == 10
    assert ("caption" in lines[0][0]) == bool(captions_weight) and "held_out_error" in lines[0][-1]


def test_a_checkpoint_gives_the_same_actions(made, tmp_path):
    store, encoder = made
    run = start(store, tmp_path, config(encoder) | {"updates": 3})
    trained = run.go()
    run.close()
    loaded = VLAAgent.load(tmp_path)
    assert loaded.statistics == trained.statistics and loaded.path == trained.path
    episode = store.read(0)
    seen = {"image": episode["image"][:2], "state": episode["state"][:2], "instruction": np.array([PUSH, HANG])}
    acted = []
    for agent in (trained, loaded):
        policy = agent.policy(seed=3, n_action_steps=1)
        policy.reset(seen)
        acted.append([policy.act(seen), policy.act(seen)])
    np.testing.assert_allclose(*acted, atol=1e-6)  # where weights lie in memory moves the last bit
    assert acted[0][0].shape == (2, 2) and np.abs(acted[0]).max() <= 1.0


def test_a_checkpoint_without_its_statistics_does_not_act(made, tmp_path):
    store, encoder = made
    run = start(store, tmp_path, config(encoder) | {"updates": 1})
    run.go()
    run.close()
    path = find_checkpoint(tmp_path) / "checkpoint.json"
    meta = json.loads(path.read_text())
    del meta["statistics"]["state"]
    path.write_text(json.dumps(meta))
    with pytest.raises(StatisticsError, match="no normalisation statistics of 'state'"):
        VLAAgent.load(tmp_path)
    meta["kind"] = "other"
    path.write_text(json.dumps(meta))
    with pytest.raises(CheckpointError, match="worldmodel imitate makes one"):
        VLAAgent.load(tmp_path)
    assert not issubclass(Agent, VLAAgent)


def test_demonstrations_that_changed_are_not_gone_on_with(made, tmp_path):
    _, encoder = made
    with make_store(tmp_path / "one") as one, make_store(tmp_path / "two", lengths=(5, 4, 3, 7)) as two:
        run = start(one, tmp_path / "run", config(encoder) | {"updates": 1})
        run.go()
        run.close()
        other = start(two, tmp_path / "run", config(encoder) | {"updates": 2})
        with pytest.raises(ValueError, match="have changed"):
            other.restore()
        other.close()


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_captions_are_learned(tmp_path, lora_rank):
    agent = make_agent(tmp_path, lora_rank=lora_rank)
    head = CaptionHead(agent.model)
    assert (head.project is None) == bool(lora_rank)  # the tuned encoder's own embedding is what is compared then
    rows, sentences, true, known = Captions().draw(8, 0)
    batch = CaptionBatch(Captions.pictures[rows], sentences, true, known)
    parameters = [*head.parameters(), *agent.model.parameters()]
    optimizer = torch.optim.Adam(parameters, 3e-3)
    losses = []
    for _ in range(60):
        losses.append(head.loss(agent.model, batch))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1].item() < 0.8 * losses[0].item()


def test_captions_of_another_size_are_refused(made, tmp_path):
    store, encoder = made
    captions = Captions()
    captions.pictures = np.zeros((2, 16, 16, 3), np.uint8)
    with pytest.raises(ValueError, match="captions_weight=0"):
        start(store, tmp_path, config(encoder) | {"captions_weight": 0.5}, captions)
    assert INTERFACE.cameras["image"] == (SIZE, SIZE, 3)
