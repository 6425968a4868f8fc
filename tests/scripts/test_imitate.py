"""`worldmodel imitate` and the checkpoint it makes, from the command line."""

from __future__ import annotations

import itertools
import json

import pytest
from test_cli import run
from tiny_encoder import make_tiny_encoder

import envs
from policies.baselines import RandomPolicy
from policies.collect import collect
from worldmodel import Interface
from worldmodel.data import EpisodeStore

ENV = {"id": "worldmodel/CartpoleSwingup-v0", "image_size": 32, "max_episode_steps": 8}
TINY = (
    "vla.width=32", "vla.layers=1", "vla.heads=2", "vla.kv_heads=2", "vla.decoder_layers=1", "vla.channels=[8,8,16]",
    "vla.chunk=4", "vision_language.patch_tokens=4", "batch_size=4", "logging.wandb=disabled", "eval.episodes=1",
    "eval.baselines=[]",
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two episodes that tell no instruction, and an encoder."""
    folder = tmp_path_factory.mktemp("imitate")
    make_tiny_encoder(folder / "encoder", size=32)
    vector = envs.make_vector(2, **ENV)
    interface = Interface(**vector.interface)
    with EpisodeStore.create(folder / "data", interface, {"env": ENV}) as store:
        collect(RandomPolicy(interface=interface, seed=0), vector, store, 16, itertools.count())
    vector.close()
    return folder


@pytest.fixture(scope="module")
def trained(made):
    """The same folder, with a policy's run."""
    common = (f"data={made / 'data'}", f"vision_language.name={made / 'encoder'}", "successful=false", *TINY)
    code, _, errors = run("imitate", *common, f"run={made / 'run'}", "updates=2", "instruction=the pole hangs down")
    assert code == 0, errors
    return made


def test_a_policy_is_trained_and_evaluated_again(trained):
    made = trained
    result = json.loads((made / "run" / "eval.json").read_text())
    assert result["policies"]["vla"]["execution"]["predictions"] >= 1 and result["context"]["policy"] == "vla"

    again = ("evaluate", f"checkpoint={made / 'run'}", f"run={made / 'again'}", "eval.baselines=[]")
    code, _, errors = run(*again, "policy=vla", "policy.n_action_steps=2", "policy.asynchronous=true")
    assert code == 0, errors
    assert json.loads((made / "again" / "eval.json").read_text())["policies"]["vla"]["execution"]["predictions"] >= 3
    code, _, errors = run(*again[:2], "policy=actor", "eval.baselines=[]")
    assert code == 1 and "policy=vla" in errors


def test_a_policy_is_adapted_and_evaluated(trained):
    folder, data = trained / "adapt", f"data={trained / 'data'}"
    own = ("updates=2", "successful=false", "instruction=the pole hangs down", "eval.episodes=1", "eval.baselines=[]")
    adapt = ("adapt", f"checkpoint={trained / 'run'}", data, f"run={folder}", "adapter=separate", "encoder_rank=2")
    code, out, errors = run(*adapt, *own)
    assert code == 0 and "lora: " in out, errors
    assert json.loads((folder / "adapt.json").read_text())["method"]["encoder_rank"] == 2
    assert json.loads((folder / "eval.json").read_text())["context"]["policy"] == "vla"
    code, _, errors = run("adapt", data)
    assert code == 1 and "give checkpoint=" in errors
