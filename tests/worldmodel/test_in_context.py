"""The report tells a belief that finds out the dynamics from one that doesn't, and dreams the same steps after any history."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worldmodel import Interface, ModelConfig, WorldModel
from worldmodel.in_context import cut, dream_after, in_context_report, probe
from worldmodel.transition import Prediction

INTERFACE = Interface(state_dim=2, action_dim=1, privileged_dim=2, privileged_positions=2)
NEEDED = 4  # frames that the adapting model takes to know


def episodes(count: int = 40, steps: int = 25, varied: bool = True) -> list[dict]:
    """Of a point that the action moves as far as the episode's gain says; the reward is where it is."""
    random, found = np.random.default_rng(0), []
    for seed in range(count):
        gain = 4.0 ** random.uniform(-1, 1) if varied else 1.0
        action = random.uniform(-1, 1, (steps, 1)).astype(np.float32)
        position = np.concatenate([np.zeros((1, 1)), gain * action.cumsum(0)])
        state = np.concatenate([position, -position], 1).astype(np.float32)
        info = {"seed": seed, **({"dynamics": {"gain": float(gain)}} if varied else {})}
        found.append({"state": state, "privileged": state, "action": action, "reward": state[1:, 0], "info": info})
    return found


def point(adapts: bool) -> WorldModel:
    """A model whose latent is the state, whose belief is the logarithm of the gain once it has seen `NEEDED` frames (0
    before, or always), and whose transition follows the belief."""
    torch.manual_seed(0)
    config = ModelConfig(latent_dim=2, width=16, layers=1, heads=2, kv_heads=1, window=8, ensemble=1, head_width=8,
                         feature_width=8)  # fmt: skip
    model = WorldModel(INTERFACE, config).eval()
    model.encode = lambda observation: observation["state"][..., None, :]
    model.read_state = lambda belief, latent: latent[..., 0, :]
    whole = model.observe_window

    def observe_window(latents, previous):
        _, cache = whole(latents, previous)
        moved = (latents[:, 1:, 0, 0] - latents[:, :-1, 0, 0]).abs().sum(1) / previous[:, 1:, 0].abs().sum(1)
        known = adapts and latents.shape[1] >= NEEDED
        gain = moved.log() if known else torch.zeros(len(latents))
        return gain[:, None, None, None].expand(*latents.shape[:2], 1, 16), cache

    def transition(belief, latent, action):
        moved = latent + belief[..., :1].exp() * torch.cat([action, -action], -1)[:, None]
        return Prediction(moved, moved[None], moved[:, 0, 0], torch.zeros(len(moved)))

    model.observe_window, model.transition.forward = observe_window, transition
    model.step = lambda belief, latent, action, memory, tail: (transition(belief, latent, action), belief, tail)
    return model


def test_history_helps_who_adapts_and_nobody_else():
    report = in_context_report(point(True), episodes(), [1, 2, 4, 8], 5)
    blind = in_context_report(point(False), episodes(), [1, 2, 4, 8], 5)
    few, many = report["frames"][2], report["frames"][8]
    assert report["gain"] == pytest.approx(1.0) and many["latent_error"] < 1e-6
    assert few["latent_error"] > 0.01
    assert many["reward_r2"] > 0.999 > few["reward_r2_5"] and many["state_r2_5"] > 0.999 > few["state_r2"]
    assert many["probe"]["gain"] > 0.99 and abs(few["probe"]["gain"]) < 0.3
    assert blind["gain"] == 0.0 and blind["frames"][8]["latent_error"] == few["latent_error"]


def test_in_the_usual_dynamics_there_is_nothing_to_find_out():
    report = in_context_report(point(True), episodes(varied=False), [2, 8], 5)
    assert report["frames"][2]["latent_error"] < 1e-6 and "probe" not in report["frames"][2]


def test_the_same_steps_are_dreamt_whatever_is_seen():
    windows = cut(point(True), (made := episodes(2, 17)), 8, 5)
    assert windows.episode.tolist() == [0, 0, 1, 1] and windows.names == ["gain"]
    for row, first in enumerate((8, 13, 8, 13)):
        episode = made[row // 2]
        np.testing.assert_array_equal(windows.latents[row, :, 0], episode["state"][first - 8 : first + 5])
        np.testing.assert_array_equal(windows.privileged[row], episode["privileged"][first : first + 5])
        np.testing.assert_array_equal(windows.reward[row], episode["reward"][first - 1 : first + 4])
        np.testing.assert_array_equal(windows.previous[row, 8:], episode["action"][first - 1 : first + 4])
    assert windows.previous[0, 0] == 0 and windows.previous[0, 1] == made[0]["action"][0].item()
    for seen in (0, 9):
        with pytest.raises(ValueError, match="1 to 8"):
            dream_after(point(True), windows, seen)


def test_a_probe_is_measured_on_other_episodes():
    """Features that tell the episodes of the first half apart, and nothing of those of the second, read nothing."""
    episode = np.repeat(np.arange(40), 4)
    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(40, 1, generator=generator)[episode]
    assert probe(torch.eye(40)[episode], factors, episode)[0] < 0.1
    noise = torch.randn(160, 8, generator=generator)
    assert probe(torch.cat([2 * factors + 3, noise], 1), factors, episode)[0] > 0.95
    assert probe(noise, factors, episode)[0] < 0.1
    with pytest.raises(ValueError, match="at least 8"):
        probe(factors[:12], factors[:12], episode[:12])


def test_short_episodes_are_told():
    with pytest.raises(ValueError, match="12 steps"):
        in_context_report(point(True), episodes(3, 11), [8], 5)
