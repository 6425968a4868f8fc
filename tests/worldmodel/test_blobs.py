"""Where the colours of a picture are: by hand, through the sampler, and as a loss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_model import SMALL, TWO_CAMERAS, batch_for

from policies.scales import fix_scales, see_blobs
from worldmodel import Interface, ModelConfig, WorldModel
from worldmodel.blobs import NUMBERS, BlobMeasure, ColourBlobs, cluster_colours
from worldmodel.data import EpisodeStore, WindowSampler

GREY, RED, BLUE = (128, 128, 128), (230, 30, 20), (20, 40, 220)
SHAPE = (32, 32, 3)


def picture(x: float, y: float, size: float = 6.0, colour=RED) -> np.ndarray:
    """A square of `size` pixels around (x, y), in pixels from the left upper corner, with antialiased edges."""

    def covered(centre):
        left, right = np.arange(32), np.arange(1, 33)
        return np.clip(np.minimum(right, centre + size / 2) - np.maximum(left, centre - size / 2), 0, 1)

    share = (covered(y)[:, None] * covered(x))[..., None]
    return np.round(share * colour + (1 - share) * np.array(GREY)).astype(np.uint8)


def measure_of(*colours) -> BlobMeasure:
    return BlobMeasure({"image": SHAPE}, np.array([colours], np.float32) / 255)


def test_area_place_and_spread_of_a_square_are_what_they_are():
    frames = np.stack([picture(16, 16), picture(8, 24), picture(16, 16, size=10)])
    red = measure_of(GREY, RED)({"image": frames}).reshape(3, 2, NUMBERS)[:, 1]
    np.testing.assert_allclose(red[:, 0] * 1024, [36, 36, 100], rtol=0.05)
    np.testing.assert_allclose(red[:, 1], [0, -0.5, 0], atol=0.06)  # drawn to the middle a little
    np.testing.assert_allclose(red[:, 2], [0, 0.5, 0], atol=0.06)
    assert red[2, 3] == pytest.approx((10 / 16) ** 2 / 12, rel=0.15)  # the variance of a uniform distribution
    np.testing.assert_allclose(red[0, 4], 0, atol=1e-4)


def test_places_follow_to_a_fraction_of_a_pixel():
    at = np.arange(12.0, 20.0, 0.1)
    frames = np.stack([picture(x, 16) for x in at])
    column = measure_of(GREY, RED)({"image": frames}).reshape(len(at), 2, NUMBERS)[:, 1, 1]
    line = np.polyval(np.polyfit(at, column, 1), at)
    assert (column - line).std() < 0.15 * (2 / 32)  # pixels of the picture, from -1 to 1
    assert np.corrcoef(at, column)[0, 1] > 0.998


def test_a_colour_that_is_not_there_is_in_the_middle():
    empty = np.full((1, *SHAPE), 128, np.uint8)
    area, x, y = measure_of(GREY, BLUE)({"image": empty}).reshape(2, NUMBERS)[1, :3]
    assert 0 <= area < 0.01 and abs(x) < 1e-3 and abs(y) < 1e-3


def test_small_things_have_clusters_of_their_own():
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(64):
        (left, right), height = rng.uniform(3, 13, 2), rng.uniform(4, 28)
        frames.append(np.concatenate([picture(left, height, 3)[:, :16], picture(16 + right, 20, 3, BLUE)[:, 16:]], 1))
    clusters = cluster_colours(torch.from_numpy(np.stack(frames)), 6, torch.Generator().manual_seed(0)) * 255
    for colour in (GREY, RED, BLUE):
        assert (clusters - torch.tensor(colour, dtype=torch.float32)).norm(dim=1).min() < 40


def test_fewer_colours_than_clusters_are_no_error():
    clusters = cluster_colours(torch.full((2, *SHAPE), 77, dtype=torch.uint8), 4, torch.Generator().manual_seed(0))
    assert clusters.shape == (4, 3) and (clusters * 255 - 77).abs().max() < 8


@pytest.fixture
def store(tmp_path: Path):
    interface = Interface(cameras={"image": SHAPE}, action_dim=1)
    rng = np.random.default_rng(0)
    with EpisodeStore.create(tmp_path / "data", interface) as store:
        for steps in rng.integers(3, 20, 30):
            path = 16 + rng.normal(0, 1.5, (steps + 1, 2)).cumsum(0)
            store.append({
                "image": np.stack([picture(*place) for place in path]), "action": np.zeros((steps, 1), np.float32),
                "reward": np.zeros(steps, np.float32), "terminated": False, "truncated": True,
            })  # fmt: skip
        yield store


def test_windows_bring_the_blobs_of_their_pictures_and_how_they_changed(store):
    model = WorldModel(store.interface, ModelConfig(**SMALL))
    model.blobs.fit({"image": WindowSampler(store, 1, 64, 0).sample()["image"][:, 0]}, torch.Generator().manual_seed(0))
    see_blobs(store, model)
    batch = WindowSampler(store, 8, 40, 1).sample()
    size = model.blobs.size
    assert batch["blobs"].shape == (40, 9, 2 * size)
    expected = model.blobs.measure()({"image": batch["image"].flatten(0, 1).numpy()}).reshape(40, 9, size)
    np.testing.assert_array_equal(batch["blobs"][..., :size].numpy(), expected)
    changed, valid = batch["blobs"][:, 1:, size:].numpy(), batch["valid"].bool().numpy()
    np.testing.assert_allclose(changed[valid], np.diff(expected, axis=1)[valid], atol=1e-6)
    first = batch["start"] == 0
    assert first.any() and not batch["blobs"][first, 0, size:].any()
    assert batch["blobs"][~first, 0, size:].any()  # the frame before the window counts


def test_all_models_have_the_same_clusters_and_a_checkpoint_keeps_them(store):
    torch.manual_seed(0)
    one, other = (WorldModel(store.interface, ModelConfig(**SMALL)) for _ in range(2))
    fix_scales(store, (one, other), _Behavior(), seed=3)
    assert one.blobs.colours.any() and torch.equal(one.blobs.colours, other.blobs.colours)
    assert torch.equal(one.blob_readout.std, other.blob_readout.std) and (one.blob_readout.std > 1e-3).any()
    loaded = WorldModel(store.interface, ModelConfig(**SMALL))
    loaded.load_state_dict(one.state_dict())
    frames = {"image": WindowSampler(store, 1, 8, 0).sample()["image"][:, 0].numpy()}
    np.testing.assert_array_equal(loaded.blobs.measure()(frames), one.blobs.measure()(frames))


class _Behavior:
    def set_reward_scale(self, reward_std: float) -> None:
        """Of no interest here."""


def test_where_colours_are_is_learned_with_the_encoder(store):
    torch.manual_seed(0)
    model = WorldModel(store.interface, ModelConfig(**SMALL))
    fix_scales(store, (model,), _Behavior(), seed=0)
    sampler, generator = WindowSampler(store, 6, 16, 0), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    found = []
    for _ in range(60):
        losses = model(sampler.sample(), generator)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        found.append(float(losses["blobs"]))
    assert np.mean(found[-5:]) < 0.6 * np.mean(found[:5])
    assert model.encoder.hidden.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "made", [{"colours": 0}, {"losses": {"blobs": 0.0}}], ids=["without clusters", "without a weight"]
)
def test_they_can_be_left_out(made):
    losses = WorldModel(TWO_CAMERAS, ModelConfig(**SMALL, **made))(batch_for(TWO_CAMERAS))
    assert "blobs" not in losses and torch.isfinite(losses["loss"])


def test_with_the_simulators_state_or_without_pictures_there_are_none():
    told = Interface(cameras={"image": SHAPE}, action_dim=1, privileged_dim=4, privileged_positions=2)
    blind = Interface(state_dim=3, action_dim=1)
    assert WorldModel(told, ModelConfig(**SMALL)).blobs is None and WorldModel(told, ModelConfig(**SMALL)).told
    assert WorldModel(blind, ModelConfig(**SMALL)).blobs is None and not WorldModel(blind, ModelConfig(**SMALL)).told
    assert isinstance(WorldModel(TWO_CAMERAS, ModelConfig(**SMALL)).blobs, ColourBlobs)
