"""Metrics survive a crash, resume where the checkpoint was, and never cost the run."""

import json
import logging
import math
import sys
from contextlib import closing

import pytest
import torch

from worldmodel.metrics import Averages, MetricsLogger, read_metrics


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_line_is_on_disk_when_log_returns(tmp_path):
    with closing(MetricsLogger(tmp_path, wandb="disabled")) as metrics:
        metrics.log(3, 120, "pretrain", **{"loss/reward": torch.tensor(0.5, requires_grad=True), "rate": 7})
        (line,) = lines(tmp_path)
    assert line["step"] == 3 and line["env_steps"] == 120 and line["phase"] == "pretrain" and line["seconds"] >= 0
    assert line["loss/reward"] == 0.5 and line["rate"] == 7


def test_what_is_not_finite_is_null_so_that_every_line_is_json(tmp_path):
    with closing(MetricsLogger(tmp_path, wandb="disabled")) as metrics:
        metrics.log(0, 0, "x", a=math.nan, b=torch.tensor(math.inf), c=torch.tensor([1.0]), d=True)
    (line,) = lines(tmp_path)
    assert line["a"] is None and line["b"] is None and line["c"] == 1.0 and line["d"] == 1


@pytest.mark.parametrize("value", ["text", [1.0], torch.zeros(2), None])
def test_only_numbers_are_logged_and_the_error_names_the_metric(tmp_path, value):
    with closing(MetricsLogger(tmp_path, wandb="disabled")) as metrics, pytest.raises(TypeError, match="loss/reward"):
        metrics.log(0, 0, "x", **{"loss/reward": value})
    assert lines(tmp_path) == []


def test_a_torn_line_is_dropped_and_told(tmp_path, caplog):
    with closing(MetricsLogger(tmp_path, wandb="disabled")) as metrics:
        metrics.log(1, 1, "x", a=1)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 2, "env_st')
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1
    with caplog.at_level(logging.WARNING), closing(MetricsLogger(tmp_path, wandb="disabled")) as metrics:
        metrics.log(2, 2, "x", a=2)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]
    assert "dropped 1" in caplog.text


def test_a_resumed_run_measures_again_what_came_after_its_checkpoint(tmp_path):
    with closing(MetricsLogger(tmp_path, wandb="disabled")) as metrics:
        for step in (10, 20):
            metrics.log(step, step, "x", value=step)
        remembered = metrics.lines  # a checkpoint is written here
        for step in (20, 30):
            metrics.log(step, step, "x", value=step)
    with closing(MetricsLogger(tmp_path, wandb="disabled")) as metrics:
        before = lines(tmp_path)[-1]["seconds"]
        assert metrics.truncate(20) == 1
        assert [line["step"] for line in lines(tmp_path)] == [10, 20, 20]
        assert metrics.truncate(20, lines=remembered) == 1
        assert metrics.lines == 2
        line = metrics.log(40, 40, "x")
    assert [line["step"] for line in lines(tmp_path)] == [10, 20, 40]
    assert 0 <= line["seconds"] < before + 5


def test_averages_are_means_since_the_last_look():
    averages = Averages()
    for value in (1.0, 2.0, 6.0):
        averages.add(loss=torch.tensor(value), rate=value)
    averages.add(seldom=5)
    assert averages.pop() == {"loss": 3.0, "rate": 3.0, "seldom": 5.0}
    assert averages.pop() == {}
    averages.add(loss=torch.tensor(math.nan))
    averages.add(loss=torch.tensor(1.0))
    assert math.isnan(averages.pop()["loss"])


def test_wandb_mirrors_offline_inside_the_run_folder_and_resumes_its_id(tmp_path, capfd):
    for _ in range(2):
        with closing(MetricsLogger(tmp_path, wandb="offline", config={"seed": 0})) as metrics:
            metrics.log(1, 1, "x", value=1)
    runs = list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    identity = (tmp_path / "wandb" / "run_id").read_text()
    assert len(runs) == 2 and all(identity in run.name for run in runs)
    assert capfd.readouterr().out == ""


def test_without_wandb_the_run_goes_on_with_one_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with caplog.at_level(logging.WARNING), closing(MetricsLogger(tmp_path, wandb="offline")) as metrics:
        metrics.log(1, 1, "x", value=1)
        metrics.log(2, 2, "x", value=1)
    assert len(lines(tmp_path)) == 2
    assert len(caplog.records) == 1 and "logging.wandb=disabled" in caplog.text


def test_a_mistyped_mode_names_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="offline, online or disabled"):
        MetricsLogger(tmp_path, wandb="ofline")
