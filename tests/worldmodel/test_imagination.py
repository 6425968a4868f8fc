"""Imagination equals the teacher-forced forward, shares its history, and runs past the training length."""

from __future__ import annotations

import pytest
import torch

from worldmodel import Interface, ModelConfig, WorldModel, imagine

INTERFACE = Interface(cameras={"image": (32, 32, 3)}, action_dim=2)


def make(tokens: int = 1, layers: int = 2, window: int = 4) -> WorldModel:
    torch.manual_seed(0)
    config = ModelConfig(
        latent_tokens=tokens, latent_dim=8, width=32, layers=layers, heads=4, kv_heads=2, window=window, ensemble=2,
        head_width=32, channels=(8, 8, 8), feature_width=32,
    )  # fmt: skip
    model = WorldModel(INTERFACE, config).eval().requires_grad_(False)
    model.transition.heads.last.normal_(std=0.1)  # zero at the start, where any two trajectories would agree
    return model


@pytest.mark.parametrize("tokens", [1, 4])
@pytest.mark.parametrize("window,context,horizon", [(4, 6, 7), (8, 3, 4), (1, 3, 3), (3, 1, 6)])
def test_imagined_beliefs_equal_the_full_forward(tokens, window, context, horizon):
    model = make(tokens, window=window)
    latents, previous = torch.randn(3, context, tokens, 8), torch.randn(3, context, 2)
    actions = torch.rand(3, horizon, 2) * 2 - 1
    beliefs, cache = model.observe_window(latents, previous)
    dream = imagine(model, model.belief.remember(cache, latents, beliefs), actions, horizon)

    whole = torch.cat([latents, dream.latents[:, 1:]], 1)
    full, _ = model.observe_window(whole, torch.cat([previous, actions], 1))
    assert torch.allclose(full[:, context - 1 :], dream.beliefs, atol=2e-5)


@pytest.mark.parametrize("tokens", [1, 4])
def test_frame_by_frame_equals_the_full_forward(tokens):
    model = make(tokens)
    observation = {"image": torch.randint(0, 256, (2, 9, 32, 32, 3), dtype=torch.uint8)}
    previous = torch.randn(2, 9, 2)
    frames = [{"image": observation["image"][:, t]} for t in range(9)]
    full, _ = model.observe_window(torch.stack([model.encode(frame) for frame in frames], 1), previous)
    memory = model.start(2)
    for t, frame in enumerate(frames):
        memory = model.observe(frame, previous[:, t], memory)
        assert torch.allclose(memory.belief, full[:, t], atol=2e-5)
    assert memory.keys.shape[3] == 3 * tokens


def test_the_change_since_the_frame_before_is_an_input_but_not_since_a_frame_that_is_not_seen():
    model = make(layers=1, window=2)
    latents, previous = torch.randn(1, 3, 1, 8), torch.randn(1, 3, 2)
    moved = torch.cat([latents[:, :1] + 1.0, latents[:, 1:]], 1)
    change = [model.inputs(row[:, 1], row[:, 0], previous[:, 1]) for row in (latents, moved)]
    assert not torch.allclose(*change)
    still = model.inputs(latents[:, 1], latents[:, 1], previous[:, 1])
    assert torch.allclose(
        change[0] - still, 5.0 * (latents[:, 1] - latents[:, 0]) @ model.inward.weight[:, 8:16].T, atol=1e-5
    )
    hidden = torch.tensor([[False, True, True]])
    apart = [model.observe_window(row, previous, hidden)[0][:, 1:] for row in (latents, moved)]
    assert torch.allclose(*apart)


def test_candidates_share_one_history_and_do_not_see_each_other():
    model = make()
    latents, previous = torch.randn(2, 5, 1, 8), torch.randn(2, 5, 2)
    beliefs, cache = model.observe_window(latents, previous)
    memory = model.belief.remember(cache, latents, beliefs)
    actions = torch.rand(2, 6, 5, 2) * 2 - 1
    together = imagine(model, memory, actions.flatten(0, 1), 5, candidates=6)
    for row in range(2):
        for candidate in range(6):
            alone = imagine(model, memory.select(torch.tensor([row])), actions[row, candidate][None], 5)
            index = row * 6 + candidate
            assert torch.allclose(together.rewards[index], alone.rewards[0], atol=1e-5)
            assert torch.allclose(together.latents[index], alone.latents[0], atol=1e-5)


def test_forgotten_rows_begin_anew_and_the_others_go_on():
    model = make()
    observation = {"image": torch.randint(0, 256, (2, 6, 32, 32, 3), dtype=torch.uint8)}
    latents = model.encode(observation)
    memory = model.start(2)

    def see(memory, t):
        inputs = model.inputs(latents[:, t], memory.before(latents[:, t]), torch.zeros(2, 2))
        belief, tail = model.belief.extend(inputs, memory, model.belief.begin(memory, 2))
        return model.belief.append(memory, tail, latents[:, t], belief)

    for t in range(3):
        memory = see(memory, t)
    memory = memory.forget(torch.tensor([True, False]))
    for t in range(3, 6):
        memory = see(memory, t)
    fresh, _ = model.observe_window(latents[:1, 3:], torch.zeros(1, 3, 2))
    whole, _ = model.observe_window(latents[1:], torch.zeros(1, 6, 2))
    assert torch.allclose(memory.belief[0], fresh[0, -1], atol=2e-5)
    assert torch.allclose(memory.belief[1], whole[0, -1], atol=2e-5)


def test_policy_is_asked_at_every_step_and_gradients_reach_its_first_action():
    model = make()
    latents, previous = torch.randn(2, 5, 1, 8), torch.randn(2, 5, 2)
    beliefs, cache = model.observe_window(latents, previous)
    memory = model.belief.remember(cache, latents, beliefs)
    asked = []

    def policy(belief, latent):
        asked.append(torch.zeros(2, 2, requires_grad=True))
        return asked[-1]

    imagine(model, memory, policy, 6).rewards[:, -1].sum().backward()
    assert len(asked) == 6
    assert all(action.grad.abs().sum() > 0 for action in asked)


def test_actions_that_do_not_fit_are_refused():
    model = make()
    memory = model.start(2)
    with pytest.raises(ValueError, match="2 histories x 3 candidates x 5 steps"):
        imagine(model, memory, torch.zeros(5, 5, 2), 5, candidates=3)
