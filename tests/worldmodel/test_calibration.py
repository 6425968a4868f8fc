"""Calibration tells heads that know when they are wrong from those that do not, and from those that are too sure."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worldmodel import Interface, ModelConfig, WorldModel
from worldmodel.calibration import NOMINAL, Foreseen, calibration, draw_calibration, foresee, pooled, spearman
from worldmodel.data import EpisodeStore
from worldmodel.transition import Prediction

INTERFACE = Interface(state_dim=2, action_dim=1)


def synthetic(windows: int = 400, numbers: int = 128, known: float = 1.0, sure: float = 1.0) -> Foreseen:
    """Errors whose spread is foreseen: in a share `known` of the windows, and `sure` times too small."""
    rng = np.random.default_rng(0)
    spread = rng.uniform(0.5, 2.0, (windows, 3, 1))
    error = spread * rng.normal(size=(windows, 3, numbers))
    told = np.where(rng.random((windows, 1, 1)) < known, spread, rng.permutation(spread))
    return Foreseen(np.broadcast_to(told / sure, error.shape), error, np.ones((windows, 3), bool))


def test_heads_that_know_their_error_are_calibrated():
    for at in calibration(synthetic()):
        assert at["spearman"] > 0.98 and at["scale"] == pytest.approx(1.0, abs=0.02) and at["windows"] == 400
        for k, share in NOMINAL.items():
            assert at["coverage"][str(k)] == pytest.approx(share, abs=0.01)
        groups = at["quantiles"]
        assert len(groups) == 5 and all(
            group["error"] == pytest.approx(group["predicted"], rel=0.05) for group in groups
        )
        assert [group["predicted"] for group in groups] == sorted(group["predicted"] for group in groups)


def test_heads_that_are_too_sure_order_windows_as_well_and_cover_less():
    for at in calibration(synthetic(sure=2.0)):
        assert at["spearman"] > 0.98 and at["scale"] == pytest.approx(2.0, abs=0.05)
        assert at["coverage"]["1"] == pytest.approx(0.383, abs=0.01)  # within half a standard deviation


def test_heads_that_know_nothing_do_not_correlate():
    assert all(abs(at["spearman"]) < 0.12 for at in calibration(synthetic(known=0.0)))
    half = calibration(synthetic(known=0.5))
    assert all(0.35 < at["spearman"] < 0.65 for at in half)


def test_ranks_are_spearmans():
    x = np.array([1.0, 2.0, 2.0, 5.0])
    assert spearman(x, x**3) == pytest.approx(1.0) and spearman(x, -x) == pytest.approx(-1.0)
    assert spearman(x, np.array([3.0, 1.0, 2.0, 2.0])) == pytest.approx(
        np.corrcoef([1, 2.5, 2.5, 4], [4, 1, 2.5, 2.5])[0, 1]
    )
    assert spearman(x, np.ones(4)) is None


def test_what_is_behind_an_episodes_end_does_not_count():
    seen = synthetic(windows=40)
    seen.alive[20:, 1:] = False
    lost = Foreseen(seen.predicted, seen.error.copy(), seen.alive)
    lost.error[20:, 1:] = 1e6
    assert calibration(lost) == calibration(seen) and calibration(seen)[1]["windows"] == 20
    assert calibration(pooled([seen, seen]))[2]["windows"] == 40
    seen.alive[3:, 2] = False
    with pytest.raises(ValueError, match="3 windows .* 3 steps long"):
        calibration(seen)


def test_the_picture_is_written(tmp_path):
    report = calibration(synthetic(windows=20))
    report[1]["spearman"] = None
    assert draw_calibration(report, tmp_path / "a.png", "an env").read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> EpisodeStore:
    """Episodes of a point that the action moves."""
    store = EpisodeStore.create(tmp_path_factory.mktemp("store"), INTERFACE, {})
    random = np.random.default_rng(0)
    for _ in range(40):
        action = random.uniform(-1, 1, (20, 1)).astype(np.float32)
        position = np.concatenate([np.zeros((1, 1)), action.cumsum(0)])
        state = np.concatenate([position, -position], 1).astype(np.float32)
        store.append({"state": state, "action": action, "reward": state[1:, 0], "terminated": False, "truncated": True})
    return store


def point(ensemble: int = 2) -> WorldModel:
    """A model whose latent is the state, which moves 1.5 times as far as it should, and whose two heads differ by a
    fifth of the action."""
    config = ModelConfig(latent_dim=2, width=16, layers=1, heads=2, kv_heads=1, window=3, ensemble=ensemble,
                         head_width=8, feature_width=8)  # fmt: skip
    model = WorldModel(INTERFACE, config)
    model.encode = lambda observation: observation["state"][..., None, :]

    def transition(belief, latent, action):
        way = torch.cat([action, -action], -1)[:, None]
        moved = latent + 1.5 * way
        return Prediction(
            moved, torch.stack([moved + 0.1 * way, moved - 0.1 * way]), moved[:, 0, 0], 0 * moved[:, 0, 0]
        )

    model.transition.forward = transition
    return model


def test_dreams_are_held_against_what_came(store):
    seen = foresee(point(), store, context=4, horizon=3, windows=64)
    assert seen.predicted.shape == seen.error.shape == (64, 3, 2) and seen.alive.all()
    np.testing.assert_allclose(np.abs(seen.error[:, 0]), 5 * seen.predicted[:, 0], rtol=1e-3, atol=1e-5)
    first, *_, last = calibration(seen)
    assert first["spearman"] == pytest.approx(1.0) and first["scale"] == pytest.approx(5.0, rel=1e-3)
    assert first["coverage"] == {"1": 0.0, "2": 0.0}
    assert last["spearman"] < 1.0 and last["predicted"] > first["predicted"]  # signs add up, variances too
    assert np.all(np.diff(seen.predicted, axis=1) >= 0)


def test_one_head_is_refused(store):
    with pytest.raises(ValueError, match="model.ensemble=3"):
        foresee(point(ensemble=1), store)
