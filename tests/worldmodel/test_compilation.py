"""Compiled steps give what the functions give, for any number of rows, and without a compiler the functions remain."""

from __future__ import annotations

import random

import pytest
import torch
from torch._dynamo.utils import counters

from worldmodel import Interface, ModelConfig, WorldModel, imagine
from worldmodel.compilation import Compiled
from worldmodel.precision import native_bfloat16, reduced_copy


def make() -> WorldModel:
    torch.manual_seed(0)
    config = ModelConfig(latent_dim=8, width=32, layers=1, heads=2, kv_heads=1, window=3, ensemble=2, head_width=32,
                         channels=(8, 8, 8), feature_width=32)  # fmt: skip
    model = WorldModel(Interface(cameras={"image": (32, 32, 3)}, action_dim=2), config).eval().requires_grad_(False)
    model.transition.heads.last.normal_(std=0.1)
    return model


def memory_of(model: WorldModel, rows: int):
    latents = torch.randn(rows, 4, 1, 8)
    beliefs, cache = model.observe_window(latents, torch.randn(rows, 4, 2))
    return model.belief.remember(cache, latents, beliefs)


def test_one_compilation_serves_any_number_of_candidates():
    model = make()
    memory = memory_of(model, 1)
    step = Compiled(model.step, lambda belief, latent, action, memory, tail: [
        belief, latent, action, *tail.keys, *tail.values,
    ])  # fmt: skip
    before = counters["stats"]["unique_graphs"]
    with torch.no_grad():
        for rows in (6, 11, 2):
            actions = torch.rand(rows, 5, 2) * 2 - 1
            expected = imagine(model, memory, actions, 5, rows)
            got = imagine(model, memory, actions, 5, rows, step=step)
            assert torch.allclose(got.rewards, expected.rewards, atol=1e-5)
            assert torch.allclose(got.beliefs, expected.beliefs, atol=1e-4)
    assert counters["stats"]["unique_graphs"] == before + 1


def test_gradients_flow_through_compiled_steps_as_through_the_others():
    model = make()
    memory = memory_of(model, 3)
    gradients = []
    for step in (None, Compiled(model.step)):
        actions = torch.linspace(-1, 1, 3 * 4 * 2).view(3, 4, 2).requires_grad_()
        dream = imagine(model, memory, actions, 4, step=step)
        (dream.rewards.sum() + dream.beliefs.square().sum()).backward()
        gradients.append(actions.grad)
    assert gradients[0].abs().min() > 0
    assert torch.allclose(*gradients, atol=1e-4)


def test_two_models_of_different_sizes_never_share_what_was_compiled():
    first, second = (torch.nn.Linear(3, width) for width in (4, 5))
    compiled = [Compiled(layer.forward) for layer in (first, second)]
    x = torch.randn(2, 3)
    assert [c(x).shape[1] for c in compiled] == [4, 5]
    assert [c(x).shape[1] for c in compiled] == [4, 5]


def test_without_a_compiler_the_function_itself_serves_and_says_so(monkeypatch):
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    number = random.random()  # never compiled before, so in no cache
    function = Compiled(lambda x: (x * number).sin())
    with pytest.warns(UserWarning, match="not compiled"):
        result = function(torch.ones(3))
    assert torch.allclose(result, torch.full((3,), number).sin())
    assert torch.allclose(function(torch.ones(4)), torch.full((4,), number).sin())


@pytest.mark.skipif(not native_bfloat16(torch.device("cpu")), reason="this CPU has no bfloat16 units")
def test_the_reduced_copy_multiplies_in_bfloat16_and_leaves_the_model_alone():
    model = make()
    memory, actions = memory_of(model, 4), torch.rand(4, 5, 2) * 2 - 1
    expected = imagine(model, memory, actions, 5)
    reduced = imagine(reduced_copy(model), memory, actions, 5)
    error = (reduced.rewards - expected.rewards).norm() / expected.rewards.norm()
    assert 0 < error < 0.03
    assert reduced.latents.dtype == reduced.beliefs.dtype == torch.float32
    assert torch.equal(imagine(model, memory, actions, 5).rewards, expected.rewards)


@pytest.mark.skipif(not native_bfloat16(torch.device("cpu")), reason="this CPU has no bfloat16 units")
def test_an_actor_finds_the_same_way_uphill_in_the_reduced_copy():
    model = make()
    memory, slopes = memory_of(model, 64), []
    actions = torch.rand(64, 5, 2) * 2 - 1
    for each in (model, reduced_copy(model)):
        given = actions.clone().requires_grad_()
        imagine(each, memory, given, 5).rewards.sum().backward()
        slopes.append(given.grad)
    error = (slopes[1] - slopes[0]).norm() / slopes[0].norm()
    assert 0 < error < 0.05
