"""The whole pipeline learns: from pixels, in minutes, to something that chance does not reach."""

from __future__ import annotations

from functools import partial

import pytest

import envs
from policies.pipeline import train
from worldmodel.metrics import read_metrics
from worldmodel.progress import Progress


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_cartpole_from_pixels_learns_to_see_predict_and_act(tmp_path):
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    from scripts import settings  # noqa: F401  registers the resolver of the run folder's name

    overrides = [
        "run=unused", "env.image_size=32", "logging.wandb=disabled", "logging.video_every=0", "eval.episodes=4",
        "training.collect.steps=12000", "training.pretrain.updates=700", "training.imagine.updates=150",
        "training.online.rounds=1", "planner.samples=64", "planner.iterations=2", "eval.max_steps=250",
    ]  # fmt: skip
    with initialize_config_module("configs", version_base="1.3"):
        config = OmegaConf.to_container(compose("train", overrides=overrides), resolve=True)
    make = config["env"]
    done = train(config, tmp_path, partial(envs.make_vector, **make), partial(envs.make, **make), Progress(quiet=True))

    last = [line for line in read_metrics(tmp_path / "metrics.jsonl") if "reward_r2_5" in line][-1]
    assert last["reward_r2_5"] > 0.5
    assert last["latent_error_5"] < 0.6 * last["repeat_error_5"]
    assert last["latent_error_5"] < 0.9 * last["shuffled_error_5"]  # it does not ignore actions
    assert last["probe_r2"] > 0.8
    scores = {name: score["return"]["mean"] for name, score in done["results"]["policies"].items()}
    assert max(scores["actor"], scores["planner"]) > scores["random"] + 100, scores
