"""A number carries its interval and where it comes from, in a file that is whole or absent."""

import json
import math
import subprocess

import numpy as np
import pytest
import torch

from worldmodel import provenance
from worldmodel.provenance import (
    commit,
    machine,
    mean_interval,
    plain,
    result_json,
    versions,
    whole_file,
    wilson,
    write_json,
)


def test_the_bootstrap_interval_covers_the_true_mean_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        _, low, high = mean_interval(generator.normal(5.0, 2.0, 30), confidence=0.9)
        covered += low <= 5.0 <= high
    assert 0.82 < covered / 200 < 0.96


def test_the_interval_is_the_same_each_time_and_absent_for_one_value():
    assert mean_interval([1.0, 2.0, 4.0]) == mean_interval([1.0, 2.0, 4.0])
    mean, low, high = mean_interval([3.0])
    assert mean == 3.0 and math.isnan(low) and math.isnan(high)
    with pytest.raises(ValueError, match="95"):
        mean_interval([1.0, 2.0], confidence=95)


def test_wilson_matches_the_textbook_and_keeps_a_width_at_the_ends():
    rate, low, high = wilson(8, 10)
    assert (rate, low, high) == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 10)[2] > 0.2 and wilson(0, 10)[1] == pytest.approx(0.0)
    assert wilson(10, 10)[1] < 0.8 and wilson(10, 10)[2] == pytest.approx(1.0)
    with pytest.raises(ValueError, match="11 successes of 10"):
        wilson(11, 10)


def test_a_claim_is_met_from_its_own_side_of_the_bar():
    more = result_json("return", "worldmodel train", [0, 1], [700.0, 800.0], 600)
    less = result_json("answer in ms", "benchmark", [0], [7.0], 5, higher_is_better=False)
    free = result_json("figure", "benchmark", [0], [7.0], None)
    assert (more["met"], less["met"], free["met"]) == (True, False, None)
    assert more["mean"] == 750 and more["interval"]["low"] == 700 and more["interval"]["high"] == 800
    fields = {"claim", "command", "machine", "commit", "versions", "seeds", "values", "mean", "interval", "bar", "met"}
    assert fields <= more.keys()


def test_the_machine_and_the_versions_are_told():
    assert machine()["cores"] >= 1 and machine()["threads"] == torch.get_num_threads() and machine()["cpu"]
    assert versions()["torch"] == torch.__version__.partition("+")[0] or versions()["torch"] == torch.__version__
    assert {"python", "numpy", "mujoco"} <= versions().keys()


def test_the_commit_is_told_where_there_is_one_and_none_where_git_is_missing(tmp_path, monkeypatch):
    def git(*arguments):
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    module = tmp_path / "provenance.py"
    module.write_text("first")
    monkeypatch.setattr(provenance, "__file__", str(module))
    git("init")
    commit.cache_clear()
    assert commit() == {"hash": None, "dirty": None}  # somebody else's repository: the file is not in it

    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "claim.json").write_text("{}")
    git("add", ".")
    git("commit", "-m", "first", "--no-gpg-sign")
    commit.cache_clear()
    assert commit() == {"hash": git("rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "results" / "claim.json").write_text("[]")
    commit.cache_clear()
    assert commit()["dirty"] is False
    module.write_text("second")
    commit.cache_clear()
    assert commit()["dirty"] is True

    monkeypatch.setenv("PATH", "")
    commit.cache_clear()
    assert commit() == {"hash": None, "dirty": None}
    commit.cache_clear()


def test_plain_values_are_json_whatever_library_they_come_from(tmp_path):
    value = {"a": np.float32(1.5), "b": torch.tensor([1, 2]), "c": math.nan, "d": (np.bool_(True), tmp_path), 3: None}
    assert plain(value) == {"a": 1.5, "b": [1, 2], "c": None, "d": [True, str(tmp_path)], "3": None}
    with pytest.raises(TypeError, match=r"value.runs\[1\].policy is of type object"):
        plain({"runs": [{}, {"policy": object()}]})


def test_a_file_that_breaks_off_leaves_the_old_one(tmp_path):
    path = write_json(tmp_path / "folder" / "result.json", {"value": 1})
    with pytest.raises(TypeError):
        write_json(path, {"value": object()})
    with pytest.raises(KeyboardInterrupt), whole_file(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert json.loads(path.read_text()) == {"value": 1}
    assert list(path.parent.iterdir()) == [path]
