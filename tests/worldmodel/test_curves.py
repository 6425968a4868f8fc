"""The curves show what the metrics hold, and nothing where they hold nothing."""

import math
from contextlib import closing

import numpy as np

from worldmodel.curves import draw_curves
from worldmodel.metrics import MetricsLogger


def write(folder, more):
    with closing(MetricsLogger(folder, wandb="disabled")) as metrics:
        for step in range(0, 500, 100):
            metrics.log(step, 2 * step, "pretrain", **{"model/latent": math.exp(-step / 100), **more(step)})
    return folder / "metrics.jsonl"


def picture(path):
    from PIL import Image

    return np.asarray(Image.open(path).convert("RGB"))


def test_each_question_gets_a_panel(tmp_path):
    losses = draw_curves(write(tmp_path / "a", lambda step: {}), tmp_path / "a" / "curves.png")

    def everything(step):
        return {
            **{f"{name}_error_{k}": k * step for name in ("latent", "repeat", "shuffled") for k in (1, 5)},
            **{f"reward_r2_{k}": 1 - k / 10 for k in (1, 5)},
            "probe_r2": 0.9,
            "imagined_reward": 3.0,
            "real_reward": 2.0,
            "validation_return": float(step),
            "behavior/actor_loss": -1.0,
        }

    full = draw_curves(write(tmp_path / "b", everything), tmp_path / "b" / "curves.png", title="cartpole")
    small, large = picture(losses), picture(full)
    assert large.shape[0] > 2 * small.shape[0] and large.shape[1] > 2 * small.shape[1]
    assert (large != 255).any(-1).mean() > 0.01


def test_gaps_are_left_out(tmp_path):
    path = write(tmp_path, lambda step: {"validation_return": math.nan if step == 200 else step})
    assert draw_curves(path, tmp_path / "curves.png") == tmp_path / "curves.png"


def test_nothing_to_draw_draws_nothing(tmp_path):
    with closing(MetricsLogger(tmp_path, wandb="disabled")) as metrics:
        metrics.log(0, 0, "collect", rate=5.0)
    assert draw_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png") is None
    assert not (tmp_path / "curves.png").exists()
