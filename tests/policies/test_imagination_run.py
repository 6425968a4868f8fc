"""An actor for a sentence: its reward is read from imagined semantic tokens, and nothing else enters its training."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch
from test_agent import MODEL, PLANNER
from tiny_encoder import SENTENCES, make_tiny_encoder

import envs
from policies.agent import Agent
from policies.baselines import RandomPolicy
from policies.collect import collect
from policies.imagination_run import POOL, SentenceReward, train_on_sentence
from policies.starts import start_memories
from worldmodel import Interface
from worldmodel.data import EpisodeStore
from worldmodel.progress import Progress

CONFIG = {
    "model": MODEL, "behavior": {"width": 32, "horizon": 4, "starts": 8}, "planner": PLANNER, "updates": 6, "compile": False,
    "seed": 0,
    "logging": {"wandb": "disabled", "every": 3},
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An untrained agent with semantic tokens, and episodes of its env."""
    vector = envs.make_vector(2, id="worldmodel/CartpoleSwingup-v0", image_size=16, max_episode_steps=20)
    interface = Interface(**vector.interface)
    torch.manual_seed(0)
    encoder = make_tiny_encoder(tmp_path_factory.mktemp("encoder"))
    agent = Agent.new(interface, CONFIG | {"vision_language": {"name": str(encoder)}})
    agent.model.eval().transition.heads.last.data.normal_(std=0.1)
    agent.config = CONFIG | {"vision_language": {"name": str(encoder)}}
    store = EpisodeStore.create(tmp_path_factory.mktemp("store") / "data", interface, {})
    collect(RandomPolicy(interface=interface, seed=0), vector, store, 120, itertools.count())
    vector.close()
    yield agent, store
    store.close()


def fabric():
    from lightning_fabric import Fabric

    return Fabric(accelerator="cpu", devices=1)


def test_the_reward_is_the_fit_of_the_frame_that_a_step_leads_to(made):
    agent, _ = made
    latents = torch.randn(200, 1, 8)
    reward = SentenceReward(agent, SENTENCES[0], latents)
    text = agent.model.semantics.encoder().encode_text([SENTENCES[0]])[0]
    fit = agent.model.read_semantic(latents)[:, 0] @ text
    dream = SimpleNamespace(latents=latents.view(20, 10, 1, 8))
    given = reward(dream)
    expected = (fit - fit.quantile(0.05)) / (fit.quantile(0.995) - fit.quantile(0.05))
    assert given.shape == (20, 9) and torch.allclose(given, expected.view(20, 10)[:, 1:].clamp(-0.2, 1.2), atol=1e-5)
    assert reward.std == pytest.approx(expected.clamp(-0.2, 1.2).std().item(), rel=1e-4)


def test_a_frame_that_fits_badly_has_a_slope_too(made):
    agent, _ = made
    latents = torch.randn(200, 1, 8, requires_grad=True)
    reward = SentenceReward(agent, SENTENCES[0], latents)
    given = reward(SimpleNamespace(latents=latents[:, None].expand(-1, 2, -1, -1)))[:, 0]
    given.sum().backward()
    sloped = (latents.grad.abs().sum((1, 2)) > 0)[given < given.median()]
    assert sloped.float().mean() > 0.9 and (given < 0).float().mean() > 0.03


def test_training_follows_from_the_seed_and_never_reads_a_reward(made, tmp_path):
    agent, store = made
    trained = []
    for name, scale in (("a", 1.0), ("b", 100.0)):
        agent.model.transition.reward_scale.fill_(scale)  # were the model's rewards used, this would tell
        done = train_on_sentence(
            agent, store, SENTENCES[0], agent.config, tmp_path / name, fabric(), Progress(quiet=True)
        )
        trained.append(torch.cat([p.flatten() for p in done.behavior.average.parameters()]))
        assert (tmp_path / name / "metrics.jsonl").read_text().count("imagined_return") == 2
    assert torch.equal(*trained)
    other = train_on_sentence(agent, store, SENTENCES[1], agent.config, tmp_path / "c", fabric(), Progress(quiet=True))
    assert not torch.equal(trained[0], torch.cat([p.flatten() for p in other.behavior.average.parameters()]))


def test_what_was_trained_is_loaded_and_acts(made, tmp_path):
    agent, store = made
    done = train_on_sentence(agent, store, SENTENCES[0], agent.config, tmp_path, fabric(), Progress(quiet=True))
    loaded = Agent.load(tmp_path)
    features = torch.randn(3, agent.model.feature_dim)
    assert torch.equal(loaded.behavior.average(features)[0], done.behavior.average(features)[0])
    policy = loaded.policy("actor")
    picture = torch.zeros(1, 16, 16, 3, dtype=torch.uint8).numpy()
    assert policy.act({"image": picture}).shape == (1, 1)
    latents = start_memories(agent.model, store, POOL * CONFIG["behavior"]["starts"], CONFIG["seed"]).latent
    spread = SentenceReward(agent, SENTENCES[0], latents).std
    assert done.behavior.value_unit.item() == pytest.approx(spread / (1 - 0.98) / 10)


def test_a_model_without_semantic_tokens_says_so(made):
    plain = Agent.new(made[0].interface, CONFIG)
    with pytest.raises(ValueError, match="vision_language=embedded"):
        SentenceReward(plain, SENTENCES[0], torch.randn(10, 1, 8))


def test_data_in_which_nothing_fits_better_is_refused(made):
    with pytest.raises(ValueError, match="fits 'the pole stands upright' better than another"):
        SentenceReward(made[0], SENTENCES[0], torch.ones(50, 1, 8))
