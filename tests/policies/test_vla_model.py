"""The policy's model learns what it is shown with either head, and reads the sentence, the state and the picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from vla_parts import HANG, INTERFACE, PUSH, SIZE, make_agent, make_chunks

from policies.vla import VLA, VLAConfig
from policies.vla.heads import DiscreteHead, FlowHead
from policies.vla.imitation import Imitation, action_error
from policies.vla.statistics import KeyStatistics
from worldmodel import Interface
from worldmodel.vision_language import EncoderError


def fit(agent, chunks, updates: int = 150) -> list[float]:
    """The losses of plain updates on one batch."""
    module = Imitation(agent.model).train()
    optimizer = torch.optim.AdamW(module.parameters(), 3e-3, weight_decay=0.0)
    generator, losses = torch.Generator().manual_seed(0), []
    for _ in range(updates):
        loss = module(chunks, generator)["loss"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    agent.model.eval()
    return losses


@pytest.mark.parametrize(("head", "error"), [("flow", 0.15), ("discrete", 0.05)])
def test_one_batch_is_learned_by_heart(tmp_path, head, error):
    agent, chunks = make_agent(tmp_path, head), make_chunks()
    before = action_error(agent.model, chunks, torch.Generator().manual_seed(1))
    losses = fit(agent, chunks, 250)
    after = action_error(agent.model, chunks, torch.Generator().manual_seed(1))
    assert np.mean(losses[-20:]) < 0.4 * np.mean(losses[:5])
    assert after < error and after < 0.4 * before, (before, after)


@pytest.mark.parametrize("head", ["flow", "discrete"])
def test_opposite_sentences_about_one_picture_are_told_apart(tmp_path, head):
    agent = make_agent(tmp_path, head)
    chunks = make_chunks(8, sentences=[PUSH, HANG] * 4, same_picture=True)
    chunks.actions[:] = 0.7 * torch.tensor([1.0, -1.0]).repeat(4)[:, None, None]
    fit(agent, chunks, 150)
    observation = {key: value[:2].numpy() for key, value in chunks.observation.items()}
    said = [agent.predict(observation, [PUSH, HANG], torch.Generator().manual_seed(seed)) for seed in range(4)]
    assert np.abs(np.mean(said, 0)[0] - 0.7).max() < 0.25 and np.abs(np.mean(said, 0)[1] + 0.7).max() < 0.25
    swapped = agent.predict(observation, [HANG, PUSH], torch.Generator().manual_seed(0))
    assert swapped[0].mean() < -0.4 and swapped[1].mean() > 0.4


def test_padding_teaches_nothing(tmp_path):
    agent, chunks = make_agent(tmp_path, "discrete"), make_chunks()
    chunks.mask[:, 2:] = 0.0
    first = Imitation(agent.model)(chunks)["loss"]
    chunks.actions[:, 2:] = 1.0
    assert torch.equal(first, Imitation(agent.model)(chunks)["loss"])
    chunks.actions[:, 1] = 1.0
    assert not torch.equal(first, Imitation(agent.model)(chunks)["loss"])


def test_every_input_matters(tmp_path):
    agent, chunks = make_agent(tmp_path), make_chunks(2)
    said = agent.model.instructions.read(chunks.sentences)
    with torch.no_grad():
        tokens = agent.model.tokens(chunks.observation, said)
        for key in ("image", "state"):
            other = {**chunks.observation, key: chunks.observation[key].flip(0)}
            assert not torch.allclose(tokens, agent.model.tokens(other, said), atol=1e-4), key
        words = agent.model.instructions.read([HANG, HANG])
        assert not torch.allclose(tokens, agent.model.tokens(chunks.observation, words), atol=1e-4)


def test_the_flow_goes_from_noise_to_the_action_at_a_constant_velocity(tmp_path, monkeypatch):
    """With the true velocity of one target, a - noise, Euler steps end in the target whatever their number."""
    agent = make_agent(tmp_path)
    head, target = agent.model.head, torch.randn(3, 4, 2)
    assert isinstance(head, FlowHead)
    monkeypatch.setattr(
        head, "velocity", lambda noisy, time, cache: (target - noisy) / (1 - time[:, None, None]).clamp_min(1e-6)
    )
    for steps in (1, 3, 10):
        head.flow_steps = steps
        drawn = head.sample(torch.randn(3, 5, 48), torch.Generator().manual_seed(0))
        assert torch.allclose(drawn, target * head.std + head.mean, atol=1e-4)


def test_bins_lie_between_the_percentiles():
    rng = np.random.default_rng(0)
    actions = np.stack([rng.uniform(-0.5, 0.25, 2000), np.r_[np.ones(10), -np.ones(1990)]], 1).clip(-1, 1)
    actions[0, 0] = 1.0  # an outlier
    head = DiscreteHead(2, VLAConfig(width=48, heads=2, kv_heads=2), KeyStatistics.of(actions))
    q01, q99 = np.quantile(actions[:, 0], [0.01, 0.99])
    assert torch.allclose(head.low, torch.tensor([q01, -1.0]).float(), atol=1e-6)  # the second moves once in 200 steps
    assert torch.allclose(head.high, torch.tensor([q99, 1.0]).float(), atol=1e-6)
    inside = torch.tensor(actions[(actions[:, 0] > q01) & (actions[:, 0] < q99)]).float()
    bins = head.encode(inside)
    assert bins.min() >= 0 and bins.max() == 255
    assert ((head.decode(bins) - inside).abs() <= (head.high - head.low) / 512 + 1e-6).all()
    assert head.encode(torch.tensor([[9.0, -9.0]])).tolist() == [[255, 0]]


def test_a_long_sentence_is_cut_and_an_unknown_one_read_once(tmp_path):
    agent = make_agent(tmp_path, words=3)
    read = agent.model.instructions.read([PUSH, HANG, PUSH])
    assert read.words.shape[:2] == (3, 3) and read.present.all()
    assert torch.equal(read.words[0], read.words[2]) and not torch.equal(read.whole[0], read.whole[1])


def test_what_cannot_see_or_read_is_refused(tmp_path):
    agent = make_agent(tmp_path)
    statistics, semantics = agent.statistics, agent.model.semantics
    with pytest.raises(ValueError, match="needs pictures"):
        VLA(Interface(state_dim=3, action_dim=2), VLAConfig(), semantics, statistics)
    with pytest.raises(EncoderError, match="vision_language=embedded"):
        VLA(INTERFACE, VLAConfig(), None, statistics)
    with pytest.raises(ValueError, match="'image' of shape"):
        agent.predict({"image": np.zeros((1, SIZE, SIZE // 2, 3), np.uint8)}, [PUSH])
    with pytest.raises(ValueError, match="vla.head='gaussian'"):
        VLAConfig(head="gaussian")
    with pytest.raises(ValueError, match=r"unknown keys in the policy's config: \['depth'\]"):
        VLAConfig.from_dict({"depth": 2})


def test_adapters_change_what_the_encoder_sees_and_nothing_of_the_encoder(tmp_path):
    agent, chunks = make_agent(tmp_path, lora_rank=2), make_chunks()
    encoder = agent.model.semantics.encoder()
    before = encoder.encode_images(chunks.observation["image"])
    with torch.no_grad():
        assert torch.allclose(agent.model.semantic_tokens(chunks.observation), before, atol=1e-6)
    names = [name for name in agent.model.state_dict() if name.startswith("adapters")]
    assert names and all(".lora_A." in name or ".lora_B." in name for name in names)
    fit(agent, chunks, 5)
    with torch.no_grad():
        assert not torch.allclose(agent.model.semantic_tokens(chunks.observation), before, atol=1e-4)
    assert torch.equal(encoder.encode_images(chunks.observation["image"]), before)
