"""Semantic tokens in the world model: seen, predicted, kept apart from its weights, and the same from cache or picture."""

from __future__ import annotations

import copy

import pytest
import torch
from test_model import PIXELS, SMALL, batch_for
from tiny_encoder import make_tiny_encoder

from worldmodel import ModelConfig, WorldModel, imagine
from worldmodel.interface import SEMANTIC
from worldmodel.vision_language import EncoderError
from worldmodel.vision_language.semantics import Semantics


@pytest.fixture(scope="module")
def semantics(tmp_path_factory):
    folder = make_tiny_encoder(tmp_path_factory.mktemp("encoder"))
    return Semantics({"name": str(folder), "patch_tokens": 1}, ["image"])


@pytest.fixture
def model(semantics):
    torch.manual_seed(0)
    return WorldModel(PIXELS, ModelConfig(**SMALL), semantics)


def batch_with_tokens(model: WorldModel, seed: int = 0) -> dict[str, torch.Tensor]:
    batch = batch_for(PIXELS, seed=seed)
    tokens = model.semantics.tokens({"image": batch["image"].flatten(0, 1)}, model.device)
    return batch | {SEMANTIC: tokens.unflatten(0, batch["image"].shape[:2])}


def test_every_parameter_learns_and_the_encoder_is_none_of_them(model):
    losses = model(batch_with_tokens(model), torch.Generator().manual_seed(0))
    losses["loss"].backward()
    assert losses["semantic"].isfinite()
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    assert not [name for name in model.state_dict() if "vision_model" in name or "text_model" in name]


def test_tokens_from_a_cache_and_from_the_picture_give_the_same_latents(model):
    batch = batch_with_tokens(model)
    model.eval()
    given = model.encode(model.seen(batch))
    made = model.encode({"image": batch["image"]})
    assert torch.allclose(given, made, atol=1e-5)
    other = model.encode({"image": batch["image"], SEMANTIC: batch[SEMANTIC].flip(0)})
    assert not torch.allclose(given, other, atol=1e-2)  # they are seen


def test_a_batch_is_learned_in_open_loop_too(model):
    batch = batch_with_tokens(model)
    mean, std = (batch[SEMANTIC].flatten(0, 1).mean(0), batch[SEMANTIC].flatten(0, 1).std(0))
    model.set_scales(1.0, semantic=(mean, std))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        model(batch, torch.Generator().manual_seed(0))["loss"].backward()
        optimizer.step()
    model.eval()
    latents = model.encode(model.seen(batch))
    beliefs, cache = model.observe_window(latents[:, :3], batch["previous_action"][:, :3])
    memory = model.belief.remember(cache, latents[:, :3], beliefs)
    dream = imagine(model, memory, batch["action"][:, 2:], 4)
    spread = (batch[SEMANTIC] - mean)[:, 3:]
    error = (
        model.read_semantic(dream.latents[:, 1:]) - batch[SEMANTIC][:, 3:]
    ).square().mean() / spread.square().mean()
    assert error < 0.5  # of what the mean token would give
    assert torch.allclose(model.read_semantic(latents).norm(dim=-1), torch.ones(()), atol=1e-5)


def test_copies_share_the_encoder(model):
    assert copy.deepcopy(model).semantics is model.semantics


def test_tokens_of_whole_pictures_are_the_first_of_each_camera(semantics):
    two = Semantics(semantics.options, ["image.front", "image.wrist"], semantics.described)
    assert semantics.shape == (2, 16) and semantics.whole_pictures == [0]
    assert two.shape == (4, 16) and two.whole_pictures == [0, 2]


def test_another_encoder_than_the_checkpoints_is_refused(semantics, tmp_path):
    other = Semantics(
        {"name": str(make_tiny_encoder(tmp_path, seed=1)), "patch_tokens": 1}, ["image"], semantics.described
    )
    assert other.shape == semantics.shape  # known without loading it
    with pytest.raises(EncoderError, match="which differs: identity"):
        other.encoder()
