"""The diagnostics tell a good model from one that ignores actions, from the mean, and from noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worldmodel import Interface, ModelConfig, WorldModel
from worldmodel.data import EpisodeStore
from worldmodel.diagnostics import open_loop_report
from worldmodel.transition import Prediction

INTERFACE = Interface(state_dim=2, action_dim=1, privileged_dim=2, privileged_positions=2)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> EpisodeStore:
    """Episodes of a point that the action moves; the reward is where it is."""
    store = EpisodeStore.create(tmp_path_factory.mktemp("store"), INTERFACE, {})
    random = np.random.default_rng(0)
    for seed in range(40):
        action = random.uniform(-1, 1, (30, 1)).astype(np.float32)
        position = np.concatenate([np.zeros((1, 1)), 0.3 * action.cumsum(0)]) + random.normal(0, 1, (1, 1))
        state = np.concatenate([position, 2 - position], 1).astype(np.float32)
        store.append({"state": state, "privileged": state, "action": action, "reward": state[1:, 0], "terminated": False,
                      "truncated": True, "info": {"seed": seed}})  # fmt: skip
    return store


class Point:
    """A world model whose latent is the state itself, and whose transition is known."""

    def __init__(self, follows_actions: float):
        torch.manual_seed(0)
        config = ModelConfig(latent_dim=2, width=16, layers=1, heads=2, kv_heads=1, window=3, ensemble=1, head_width=8,
                             feature_width=8)  # fmt: skip
        self.model = WorldModel(INTERFACE, config)
        self.model.encode = lambda observation: observation["state"][..., None, :]
        self.model.read_state = lambda belief, latent: latent[..., 0, :]

        def transition(belief, latent, action):
            change = follows_actions * 0.3 * torch.cat([action, -action], -1)[:, None]
            moved = latent + change
            return Prediction(moved, moved[None], moved[:, 0, 0], torch.zeros(len(moved)))

        self.model.transition.forward = transition


def test_the_true_model_has_no_error_at_any_horizon(store):
    report = open_loop_report(Point(1.0).model, store, context=4, horizon=10, windows=64)
    for h in (1, 5, 10):
        assert report[f"latent_error_{h}"] < 1e-6
        assert report[f"reward_r2_{h}"] > 0.999 and report[f"state_r2_{h}"] > 0.999
        assert report[f"shuffled_error_{h}"] > 0.01  # other actions lead elsewhere
    assert report["probe_r2"] > 0.99
    assert "latent_error_15" not in report


def test_a_model_that_ignores_actions_is_no_better_than_no_change_and_shuffling_does_not_hurt_it(store):
    report = open_loop_report(Point(0.0).model, store, context=4, horizon=10, windows=64)
    assert report["latent_error_10"] == pytest.approx(report["repeat_error_10"], rel=1e-5)
    assert report["shuffled_error_10"] == pytest.approx(report["latent_error_10"], rel=1e-5)
    assert report["reward_r2_10"] < report["reward_r2_1"] < 0.99
