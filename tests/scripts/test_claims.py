"""Every claim and every ablation is a command that exists, and its number is read from what the command leaves."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from envs.captions.statements import STATEMENTS
from scripts import ablate, reproduce, settings
from scripts.claims import CLAIMS
from scripts.reproduce import agreement, standing, write


@functools.cache
def known(verb: str, *words: str) -> None:
    """Raises where a setting is not known; claims share settings."""
    settings.check(verb, list(words), False, None)


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claims_settings_are_known(name):
    known("train", *CLAIMS[name].train.split())
    if CLAIMS[name].then:
        verb, *words = CLAIMS[name].then
        known(verb, "checkpoint=x", *words)


def test_what_a_claim_says_is_something_that_was_learned():
    seen = {sentence for statement in STATEMENTS for sentence in statement.seen}
    said = [word.removeprefix("instruction=") for claim in CLAIMS.values() for word in claim.then]
    assert {sentence for sentence in said if " " in sentence} < seen


@pytest.mark.parametrize("name", ablate.ROWS)
def test_an_ablations_settings_are_known(name):
    row = ablate.ROWS[name]
    known("train", *ablate.RUN.split(), *row.train.split())
    known("collect", "data=x", *row.env.split(), *ablate.TASK_FREE.split())


def score(mean: float, late: float, episodes: int = 10, seed: int = 10_000) -> dict:
    read = {"return": {"mean": mean}, "late_success": late, "late_reward": 4 * late, "success": {"rate": late}}
    return read | {"episodes": [{"seed": seed + number} for number in range(episodes)], "decision_ms": 1.0}


def test_a_claim_reads_the_best_of_the_trained_policies_and_no_baseline():
    results = {"policies": {"actor": score(500, 0.9), "planner": score(700, 0.4), "random": score(900, 1.0)}}
    assert CLAIMS["cartpole_swingup"].value(results) == (700, "planner")
    assert CLAIMS["reacher"].value(results) == (0.9, "actor")
    assert CLAIMS["pendulum_swingup"].value(results) == (pytest.approx(0.9), "actor")
    lucky = {"policies": {"actor": score(500, 0.9), "planner": score(700, 0.4, episodes=2)}}
    assert CLAIMS["cartpole_swingup"].value(lucky) == (500, "actor")
    assert CLAIMS["two_room_goal_image"].value({"policies": {"planner": score(1, 0.5)}}) == (0.5, "planner")


def test_two_results_agree_seed_by_seed_or_by_their_intervals():
    def result(seeds: list[int], values: list[float], low: float | None, high: float | None) -> dict:
        return {"seeds": seeds, "values": values, "interval": {"low": low, "high": high}}

    old = result([0, 1], [800.0, 820.0], 790.0, 830.0)
    assert "the same number" in agreement(old, result([1], [820.0], None, None))
    assert agreement(old, result([0, 1], [805.0, 815.0], 795.0, 825.0)).startswith("agrees within the intervals")
    assert agreement(old, result([0], [600.0], None, None)).startswith("does not agree: seed 0: 800 -> 600")
    assert "no seed in common" in agreement(old, result([5], [810.0], None, None))


def test_runs_that_stay_keep_the_machine_and_the_commit_they_were_made_with():
    older = {"seed": 0, "machine": {"cpu": "older"}, "commit": {"hash": "a"}}
    file = {"machine": {"cpu": "newer"}, "commit": {"hash": "b"}}
    assert standing({**file, "runs": [older]}) == {0: older}
    assert standing({**file, "runs": [{"seed": 2}]}) == {2: {"seed": 2, **file}}
    assert standing({**file, "runs": [older, {"seed": 2}]}) == {
        0: older,
        2: {"seed": 2},
    }  # of which the file's is, nobody knows


def test_what_comes_after_training_is_judged_beside_the_actor_or_by_itself():
    trained = {"policies": {"actor": score(800, 0.9), "planner": score(900, 0.9, episodes=2)}}
    sentence = {"context": {"policy": "actor"}, "policies": {"actor": score(600, 0.7), "random": score(40, 0)}}
    assert CLAIMS["cartpole_sentence"].value(trained, sentence) == (0.75, "actor")
    planned = {
        "context": {"policy": "planner"},
        "policies": {"planner": score(1, 0.3, 50), "random": score(2, 0.9, 50)},
    }
    assert CLAIMS["tabletop_sentence_reach"].value(trained, planned) == (0.3, "planner")
    sentence["policies"]["actor"] = score(600, 0.7, seed=20_000)
    with pytest.raises(ValueError, match="over other episodes"):
        CLAIMS["cartpole_sentence"].value(trained, sentence)


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A function that makes what a training run with these settings leaves; the commands of a claim leave theirs."""
    commands = []

    def leave(folder: Path, results: dict) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "eval.json").write_text(json.dumps(results))
        (folder / "metrics.jsonl").write_text(json.dumps({"env_steps": 5, "seconds": 6.0, "validation_return": 7.0}))

    def trained(folder: Path, train: str = "") -> Path:
        leave(folder, {"policies": {"actor": score(800, 0.9)}})
        (folder / "profile.json").write_text(json.dumps({"seconds": {}, "total": 600.0}))
        (folder / "versions.json").write_text(json.dumps({"commit": {"hash": "a", "dirty": False}}))
        with initialize_config_module("configs", version_base="1.3"):
            config = compose("train", overrides=[*train.split(), "seed=3", f"run={folder}"])
        OmegaConf.save(OmegaConf.create(OmegaConf.to_container(config, resolve=True)), folder / "config.yaml")
        return folder

    def run(command, **_) -> None:
        commands.append(command[2:])
        folder = Path(next(word for word in command if word.startswith("run=")).removeprefix("run="))
        if command[2] == "scripts.train":
            trained(folder)
        else:
            leave(folder, {"context": {"policy": "actor"}, "policies": {"actor": score(600, 0.7)}})

    monkeypatch.setattr(reproduce, "subprocess", SimpleNamespace(run=run))
    monkeypatch.setattr(reproduce, "ROOT", tmp_path)
    trained.commands = commands
    return trained


def test_a_claim_trains_and_then_does_what_comes_then(finished, tmp_path):
    entry = reproduce.run("cartpole_sentence", CLAIMS["cartpole_sentence"], 3)
    (_, *train), (verb, *then) = finished.commands
    folder = train[0].removeprefix("run=")
    assert train == [f"run={folder}", "seed=3", "vision_language=embedded"] and verb == "scripts.imagine"
    assert then[0] == f"checkpoint={folder}" and then[2:] == ["seed=3", *CLAIMS["cartpole_sentence"].then[1:]]
    assert (entry["value"], entry["best"], entry["curve"]) == (0.75, "actor", [])
    assert entry["policies"]["actor"]["return"]["mean"] == 600 and entry["trained"]["actor"]["return"]["mean"] == 800


def test_a_finished_run_stands_for_training_with_its_time(finished, tmp_path):
    claim = CLAIMS["cartpole_sentence"]
    folder = finished(tmp_path / "done", claim.train)
    assert reproduce.unfit(folder, claim, [3]) == ""
    entry = reproduce.run("cartpole_sentence", claim, 3, folder)
    assert [command[0] for command in finished.commands] == ["scripts.imagine"]
    assert entry["minutes"] == pytest.approx(10, abs=0.1) and entry["trained_by"]["hash"] == "a"


def test_a_run_with_other_settings_does_not_stand_for_training(finished, tmp_path):
    claim = CLAIMS["cartpole_sentence"]
    folder = finished(tmp_path / "other", f"{claim.train} training.window=9")
    assert reproduce.unfit(folder, claim, [4]) == (
        "trained under other settings: seed is 3, not 4; training.window is 9, not 14"
    )
    assert "are 2" in reproduce.unfit(folder, claim, [3, 4])
    assert "no finished run" in reproduce.unfit(tmp_path, claim, [3])


def test_a_figure_without_a_bar_is_neither_met_nor_missed(tmp_path):
    without = dataclasses.replace(CLAIMS["tabletop_goal_push"], bar=None)
    runs = [{"seed": 0, "value": 0.3, "minutes": 200.0}]
    result = write(tmp_path / "x.json", "tabletop_goal_push", without, runs)
    assert result["met"] is None and result["in_time"] is False
