"""`worldmodel improve`, `policy=propose` and the report on calibration, from the command line."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from fork_server import Started
from test_cli import surroundings
from tiny_encoder import make_tiny_encoder

import envs
from policies.agent import Agent
from policies.baselines import RandomPolicy
from policies.collect import collect
from policies.vla import VLAAgent
from policies.vla.agent import KIND
from policies.vla.statistics import Statistics
from worldmodel import Interface
from worldmodel.checkpoint import save_checkpoint
from worldmodel.data import EpisodeStore

ENV = {"id": "worldmodel/CartpoleSwingup-v0", "image_size": 32, "max_episode_steps": 8}
VLA = {"chunk": 4, "width": 32, "layers": 1, "heads": 2, "kv_heads": 2, "decoder_layers": 1, "channels": [8, 8, 16]}
MODEL = {"latent_dim": 8, "width": 32, "layers": 1, "heads": 2, "kv_heads": 1, "window": 4, "ensemble": 2,
         "head_width": 32, "channels": [8, 8, 8], "feature_width": 32}  # fmt: skip
QUICK = ("logging.wandb=disabled", "eval.episodes=1", "eval.baselines=[]")


def run(*arguments: str) -> tuple[int, str, str]:
    """Exit code, output and errors of `python -m <arguments>`."""
    return Started("-m", *arguments, environment=surroundings()).wait()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Episodes, and untrained checkpoints of a policy, `vla`, and of a world model of their env, `world`."""
    folder = tmp_path_factory.mktemp("improve")
    encoder = make_tiny_encoder(folder / "encoder", size=32)
    vector = envs.make_vector(2, **ENV)
    interface = Interface(**vector.interface)
    store = EpisodeStore.create(folder / "data", interface, {"env": ENV})
    collect(RandomPolicy(interface=interface, seed=0), vector, store, 40, itertools.count())
    vector.close()
    torch.manual_seed(0)
    config = {
        "env": ENV, "vla": VLA, "vision_language": {"name": str(encoder), "patch_tokens": 4, "batch_size": 8},
        "data": str(folder / "data"), "instruction": "the pole hangs down",
        "eval": {"envs": 1, "seed": 10_000, "confidence": 0.95},
    }  # fmt: skip
    statistics = Statistics.of_store(store)
    store.close()
    policy = VLAAgent.new(interface, config, statistics)
    meta = {"kind": KIND, "interface": interface.to_dict(), "statistics": statistics.to_dict(), "config": config,
            "semantics": policy.model.semantics.described}  # fmt: skip
    save_checkpoint(folder / "vla" / "checkpoints" / "1", {"model": policy.model}, {}, meta)
    config = {"env": ENV, "model": MODEL, "behavior": {"width": 32}, "data": str(folder / "data")}
    world = Agent.new(interface, config)
    world.model.transition.heads.last.data.normal_(std=0.1)
    modules = {"model": world.model, "behavior": world.behavior}
    meta = {"interface": interface.to_dict(), "config": config, "semantics": None}
    save_checkpoint(folder / "world" / "checkpoints" / "1", modules, {}, meta)
    return folder


def test_a_policy_is_improved_in_imagination_and_gone_on_with(made):
    code, _, errors = run(
        "scripts.improve", f"checkpoint={made / 'vla'}", f"world_model={made / 'world'}", f"run={made / 'improved'}",
        "updates=3", "batch_size=4", "proposals=3", "compile=false", "successful=false", *QUICK,
    )  # fmt: skip
    assert code == 0, errors
    result = json.loads((made / "improved" / "eval.json").read_text())
    assert result["context"]["policy"] == "vla" and result["policies"]["vla"]["execution"]["predictions"] >= 1
    lines = [json.loads(line) for line in (made / "improved" / "metrics.jsonl").read_text().splitlines()]
    assert {"imagined", "improve", "action", "largest_weight"} <= set(lines[0]) and lines[-1]["step"] == 3

    code, _, errors = run("scripts.improve", "resume=true", f"run={made / 'improved'}", "updates=4")
    assert code == 0, errors
    assert VLAAgent.load(made / "improved").path.name == "000004"


def test_the_best_proposal_is_acted_on(made):
    code, _, errors = run(
        "scripts.evaluate", f"checkpoint={made / 'vla'}", f"run={made / 'proposed'}", "policy=propose",
        f"policy.world_model={made / 'world'}", "policy.proposals=3", "policy.planning=2", "planner.samples=8",
        "planner.elites=4", "planner.compile=false", "eval.episodes=1", "eval.baselines=[]",
    )  # fmt: skip
    assert code == 0, errors
    result = json.loads((made / "proposed" / "eval.json").read_text())
    assert result["policies"]["propose"]["execution"]["imagined_gain"] >= 0


def test_calibration_is_reported_beside_the_checkpoint(made):
    settings = (f"checkpoint={made / 'world'}", "context=3", "horizon=4", "windows=16", "seeds=0,1")
    code, out, errors = run("scripts.calibration", *settings)
    assert code == 0, errors
    result = json.loads((made / "world" / "calibration.json").read_text())
    assert result["seeds"] == [0, 1] and len(result["values"]) == 2 and len(result["horizons"]) == 4
    assert (made / "world" / "calibration.png").exists() and "spearman" in out
