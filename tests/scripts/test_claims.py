"""Every claim and every ablation is a command that exists, and its number is read from what the command leaves."""

from __future__ import annotations

import pytest

from scripts import ablate, settings
from scripts.claims import CLAIMS
from scripts.reproduce import agreement, standing


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claims_settings_are_known(name):
    settings.check("train", CLAIMS[name].train.split(), False, None)


@pytest.mark.parametrize("name", ablate.ROWS)
def test_an_ablations_settings_are_known(name):
    row = ablate.ROWS[name]
    settings.check("train", [*ablate.RUN.split(), *row.train.split()], False, None)
    settings.check("collect", ["data=x", *row.env.split(), *ablate.TASK_FREE.split()], False, None)


def test_a_claim_reads_the_best_of_the_trained_policies_and_no_baseline():
    def score(mean: float, late: float, episodes: int = 10) -> dict:
        read = {"return": {"mean": mean}, "late_success": late, "late_reward": 4 * late, "success": {"rate": late}}
        return read | {"episodes": [{}] * episodes}

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
