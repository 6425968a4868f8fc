"""The world model: shapes, presets, what it may and may not see, and that a batch can be learned."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from worldmodel import Interface, ModelConfig, WorldModel
from worldmodel.blobs import NUMBERS
from worldmodel.sigreg import sigreg

SMALL = dict(
    latent_dim=8, width=32, layers=2, heads=2, kv_heads=1, window=4, ensemble=2, head_width=32, channels=(8, 8, 8),
    feature_width=32, open_loop=3, decoder_frames=4,
)  # fmt: skip
PIXELS = Interface(cameras={"image": (16, 16, 3)}, action_dim=2, privileged_dim=4, privileged_positions=2)
TWO_CAMERAS = Interface(cameras={"image.front": (32, 32, 3), "image.wrist": (32, 32, 3)}, state_dim=3, action_dim=2)
STATE = Interface(state_dim=5, action_dim=3, discrete=True)


def batch_for(interface: Interface, windows: int = 4, length: int = 6, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random windows with the layout of `WindowSampler.sample`."""
    g = torch.Generator().manual_seed(seed)
    frames = (windows, length + 1)
    batch = {
        key: torch.randint(0, 256, (*frames, *shape), dtype=torch.uint8, generator=g)
        for key, shape in interface.cameras.items()
    }
    for key, size in (("state", interface.state_dim), ("privileged", interface.privileged_dim)):
        if size:
            batch[key] = torch.randn(*frames, size, generator=g)
    if interface.cameras and not interface.privileged_dim:
        batch["blobs"] = torch.randn(*frames, 2 * NUMBERS * ModelConfig().colours * len(interface.cameras), generator=g)
    action = torch.rand(windows, length, interface.action_dim, generator=g) * 2 - 1
    return batch | {
        "action": action,
        "previous_action": torch.cat([torch.zeros(windows, 1, interface.action_dim), action], 1),
        "reward": torch.randn(windows, length, generator=g),
        "terminated": torch.zeros(windows, length),
        "valid": torch.ones(windows, length),
    }


@pytest.mark.parametrize("interface", [PIXELS, TWO_CAMERAS, STATE], ids=["pixels", "two cameras and state", "state"])
def test_every_kind_of_interface_gives_finite_losses_and_gradients_everywhere(interface):
    torch.manual_seed(0)
    model = WorldModel(interface, ModelConfig(**SMALL))
    losses = model(batch_for(interface), torch.Generator().manual_seed(0))
    losses["loss"].backward()
    assert torch.isfinite(losses["loss"])
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert not without
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("preset", ["tiny", "small", "base", "large"])
def test_presets_have_their_size_and_take_a_step(preset):
    path = Path(__file__).parents[2] / "configs" / "model" / f"{preset}.yaml"
    config = ModelConfig.from_dict(yaml.safe_load(path.read_text()))
    with torch.device("meta"):
        full = WorldModel(Interface(cameras={"image": (64, 64, 3)}, action_dim=6), config)
    count = sum(p.numel() for p in full.parameters()) / 1e6
    bounds = {"tiny": (1.5, 3), "small": (12, 18), "base": (65, 95), "large": (250, 350)}[preset]
    assert bounds[0] < count < bounds[1]

    narrow = dict(width=16 * config.heads, head_width=32, feature_width=32, channels=(8, 8, 8), layers=2, latent_dim=8)
    model = WorldModel(
        Interface(cameras={"image": (64, 64, 3)}, action_dim=2), ModelConfig.from_dict(config.to_dict() | narrow)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    batch = batch_for(model.interface, windows=2, length=7)
    first = model(batch)["loss"]
    first.backward()
    optimizer.step()
    assert torch.isfinite(model(batch)["loss"])


def test_belief_sees_neither_the_future_nor_frames_beyond_its_window():
    torch.manual_seed(0)
    model = WorldModel(PIXELS, ModelConfig(**SMALL | dict(layers=1))).eval()
    latents, previous = torch.randn(1, 10, 1, 8), torch.randn(1, 10, 2)
    before, _ = model.observe_window(latents, previous)
    changed = latents.clone()
    changed[:, 5] += 1
    after, _ = model.observe_window(changed, previous)
    moved = (before - after).abs().amax((0, 2, 3)) > 1e-6
    # The window is 4 frames, frame 5 itself included, and the change since the frame before the first of them is seen.
    assert moved.tolist() == [False] * 5 + [True] * 5
    model = WorldModel(PIXELS, ModelConfig(**SMALL | dict(layers=1, window=1))).eval()
    before, after = (model.observe_window(each, previous)[0] for each in (latents, changed))
    moved = (before - after).abs().amax((0, 2, 3)) > 1e-6
    assert moved.tolist() == [False] * 5 + [True] + [False] * 4  # a window of one frame knows no change


def test_belief_knows_the_action_before_but_not_after():
    torch.manual_seed(0)
    model = WorldModel(PIXELS, ModelConfig(**SMALL)).eval()
    latents, previous = torch.randn(1, 5, 1, 8), torch.randn(1, 5, 2)
    before, _ = model.observe_window(latents, previous)
    previous[:, 3] += 1  # the action that led from frame 2 to frame 3
    after, _ = model.observe_window(latents, previous)
    moved = (before - after).abs().amax((0, 2, 3)) > 1e-6
    assert moved.tolist() == [False, False, False, True, True]


def test_decoder_learns_on_detached_latents_unless_told_otherwise():
    torch.manual_seed(0)
    batch = batch_for(PIXELS)
    only = dict(latent=0, open_loop=0, sigreg=0, reward=0, terminal=0, privileged=0)
    for share in (0.0, 1.0):
        model = WorldModel(PIXELS, ModelConfig(**SMALL, losses=only | dict(decoder=1.0, reconstruction=share)))
        model(batch)["loss"].backward()
        reached = sum(p.grad.abs().sum() for p in model.encoder.parameters() if p.grad is not None)
        assert (reached > 0) == (share > 0)
        assert sum(p.grad.abs().sum() for p in model.decoder.parameters()) > 0


def test_the_boost_multiplies_the_weight_of_sigreg_alone():
    torch.manual_seed(0)
    model, batch = WorldModel(PIXELS, ModelConfig(**SMALL)).eval(), batch_for(PIXELS)
    plain = model(batch, torch.Generator().manual_seed(0))
    boosted = model(batch, torch.Generator().manual_seed(0), 10.0)
    extra = 9 * model.config.losses.sigreg * plain["sigreg"]
    torch.testing.assert_close(boosted["loss"] - plain["loss"], extra, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(boosted["sigreg"], plain["sigreg"])


def test_padding_does_not_change_the_losses():
    torch.manual_seed(0)
    model = WorldModel(PIXELS, ModelConfig(**SMALL)).eval()
    batch = batch_for(PIXELS)
    batch["valid"][:, 4:] = 0
    first = model(batch, torch.Generator().manual_seed(0))
    batch["reward"][:, 4:] += 100
    batch["action"][:, 4:] = 0
    second = model(batch, torch.Generator().manual_seed(0))
    for name in ("latent", "reward", "terminal", "privileged"):
        assert torch.allclose(first[name], second[name]), name


def test_one_batch_can_be_learned_by_heart():
    torch.manual_seed(0)
    model = WorldModel(PIXELS, ModelConfig(**SMALL))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batch = batch_for(PIXELS, windows=2)
    history = []
    for _ in range(150):
        losses = model(batch, torch.Generator().manual_seed(0))
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        history.append(losses)
    for name in ("reward", "privileged", "open_loop"):
        assert history[-1][name] < 0.3 * history[0][name], name


def test_sigreg_is_about_one_for_a_gaussian_and_large_for_a_collapse():
    g = torch.Generator().manual_seed(0)
    gaussian = torch.randn(2000, 8, generator=g)
    assert sigreg(gaussian, g) < 2
    assert sigreg(gaussian * 0.1, g) > 50
    flat = gaussian.clone()
    flat[:, 1:] = 0
    assert sigreg(flat, g) > 50


def test_windows_shorter_than_the_open_loop_are_refused_by_name():
    model = WorldModel(PIXELS, ModelConfig(**SMALL))
    with pytest.raises(ValueError, match="training.window=3 must be longer than model.open_loop=3"):
        model(batch_for(PIXELS, length=3))


def test_tokens_must_divide_the_encoders_grid():
    with pytest.raises(ValueError, match="model.latent_tokens or env.image_size"):
        WorldModel(PIXELS, ModelConfig(**SMALL, latent_tokens=4))
    four = WorldModel(TWO_CAMERAS, ModelConfig(**SMALL, latent_tokens=4))
    assert four.encode(batch_for(TWO_CAMERAS)).shape == (4, 7, 4, 8)
