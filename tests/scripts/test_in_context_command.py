"""`python -m scripts.in_context` with untrained checkpoints."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from fork_server import Started
from test_cli import surroundings

import envs
from policies.agent import Agent
from scripts.in_context import fresh_episodes
from worldmodel import Interface
from worldmodel.checkpoint import save_checkpoint

ENV = {"id": "worldmodel/CartpoleSwingup-v0", "image_size": 16, "observation": "both"}
MODEL = {"latent_dim": 8, "width": 32, "layers": 1, "heads": 2, "kv_heads": 1, "window": 4, "ensemble": 1,
         "head_width": 32, "channels": [8, 8, 8], "feature_width": 32}  # fmt: skip
QUICK = ("episodes=10", "steps=12", "horizon=3", "seen=1,4", "envs=4", "seeds=0,1")


def save(folder, **env):
    """An untrained checkpoint of the env."""
    made = envs.make(**ENV | env)
    interface = Interface(**made.interface)
    made.close()
    torch.manual_seed(0)
    collect = {"policy": {"switch": 0.25, "gentle": None}, "broad_fraction": 0.5}
    config = {"env": ENV | env, "model": MODEL, "behavior": {"width": 32}, "training": {"collect": collect}}
    agent = Agent.new(interface, config)
    agent.model.transition.heads.last.data.normal_(std=0.1)
    modules = {"model": agent.model, "behavior": agent.behavior}
    meta = {"interface": interface.to_dict(), "config": config, "semantics": None}
    save_checkpoint(folder / "checkpoints" / "1", modules, {}, meta)
    return agent


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("in_context")
    save(folder / "varied", vary={"gain": [0.5, 2.0]})
    save(folder / "plain")
    save(folder / "repeated", action_repeat=2)
    return folder


def run(*arguments: str) -> tuple[int, str, str]:
    return Started("-m", "scripts.in_context", *arguments, environment=surroundings()).wait()


def test_two_checkpoints_are_held_against_each_other(made):
    out = made / "result.json"
    checkpoints = (f"checkpoint={made / 'plain'}", f"other={made / 'varied'}")
    code, printed, errors = run(*checkpoints, "env.vary={gain:[0.5,2],mass:[0.9,1.1]}", f"out={out}", *QUICK)
    assert code == 0, errors
    result = json.loads(out.read_text())
    assert result["vary"] == {"gain": [0.5, 2], "mass": [0.9, 1.1]} and len(result["values"]) == 2
    one, other = result["models"]["checkpoint"], result["models"]["other"]
    assert one["trained_with"] is None and other["trained_with"] == {"gain": [0.5, 2.0]}
    for model in (one, other):
        for dynamics in ("varied", "usual"):
            assert list(model[dynamics]["frames"]) == ["1", "2", "4"] and model[dynamics]["windows"] == 10 * 3
        assert set(model["varied"]["frames"]["4"]["probe"]) == {"gain", "mass"}
    assert one["varied"] == other["varied"]  # the same weights and episodes
    assert printed.count("state_r2") == 4 and "probe_r2 gain" in printed


def test_the_checkpoints_own_variation_is_the_default_and_there_must_be_one(made):
    code, _, errors = run(f"checkpoint={made / 'varied'}", f"out={made / 'own.json'}", *QUICK[:-1])
    assert code == 0 and json.loads((made / "own.json").read_text())["vary"] == {"gain": [0.5, 2.0]}, errors
    code, _, errors = run(f"checkpoint={made / 'plain'}", *QUICK)
    assert code == 1 and "env.vary={gain:[0.5,2]}" in errors
    code, _, errors = run(f"checkpoint={made / 'plain'}", "env.vary={colour:[0.5,2]}", *QUICK)
    assert code == 1 and "mass, friction, gravity, gain" in errors
    code, _, errors = run(f"checkpoint={made / 'plain'}", "env.vary={gain:", *QUICK)
    assert code == 1 and "can't be read" in errors
    code, _, errors = run(f"checkpoint={made / 'varied'}", f"other={made / 'repeated'}", *QUICK)
    assert code == 1 and "action_repeat 1 and 2" in errors
    code, _, errors = run("episodes=3")
    assert code == 1 and errors.startswith("usage: python -m scripts.in_context checkpoint=")


class Bar:
    def advance(self, count):
        pass


def test_varied_and_usual_episodes_start_alike_and_do_the_same(made):
    agent = Agent.load(made / "plain")
    varied, usual = (fresh_episodes(agent, vary, 0, 5, 6, 2, Bar()) for vary in ({"gain": [2, 3]}, None))
    for one, other in zip(varied, usual, strict=True):
        np.testing.assert_array_equal(one["action"], other["action"])
        np.testing.assert_array_equal(one["privileged"][0], other["privileged"][0])
        assert np.abs(one["privileged"] - other["privileged"]).max() > 1e-3
        assert 2 <= one["info"]["dynamics"]["gain"] <= 3 and "dynamics" not in other["info"]
