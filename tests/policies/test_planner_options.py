"""Planners refuse what does not fit: options, proposals, scores; and say why."""

from pathlib import Path

import pytest
import torch
import yaml

from policies.planners import PLANNERS, build

CONFIGS = Path(__file__).parents[2] / "configs" / "planner"
NAMES = list(PLANNERS)


def options(name, **changes):
    return {**yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()), "horizon": 10, **changes}


def planner(name, action_dim, **changes):
    return build(action_dim=action_dim, **options(name, **changes))


def total(actions):
    return actions.sum((-1, -2))


def test_what_does_not_fit_is_refused_with_its_reason():
    search = planner("mppi", 3)
    with pytest.raises(ValueError, match=r"\(2, 4, 9, 3\), expected \(rows=2, any, planner.horizon=10, action_dim=3\)"):
        search.plan(total, 2, torch.zeros(2, 4, 9, 3))
    with pytest.raises(ValueError, match="NaN or infinite actions"):
        search.plan(total, 2, torch.full((2, 4, 10, 3), float("nan")))
    with pytest.raises(ValueError, match="300 proposals .* raise planner.samples"):
        search.plan(total, 2, torch.zeros(2, 300, 10, 3))
    with pytest.raises(ValueError, match="16 proposals .* raise planner.restarts"):
        planner("gradient", 3).plan(total, 2, torch.zeros(2, 16, 10, 3))
    with pytest.raises(ValueError, match=r"expected \(rows, candidates\) = \(2, 256\)"):
        search.plan(lambda actions: actions.sum((1, 2, 3)), 2)
    search.plan(total, 2)
    with pytest.raises(ValueError, match="3 rows after planning for 2: call planner.reset"):
        search.plan(total, 3)


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_option_is_refused_and_the_near_miss_named(name):
    with pytest.raises(ValueError, match="did you mean horizon"):
        planner(name, 2, horizn=3)
    with pytest.raises(ValueError, match=f"planner={name} lacks iterations"):
        build(name, 2, **{key: value for key, value in options(name).items() if key not in ("name", "iterations")})
    for wrong in (
        {"horizon": 0},
        {"iterations": 2.5},
        {"proposals": -1},
        {"budget_ms": 0},
        {"budget_ms": float("nan")},
        {"proposals": 10_000},
    ):
        with pytest.raises(ValueError, match=f"planner.{next(iter(wrong))}"):
            planner(name, 2, **wrong)


@pytest.mark.parametrize(
    "name, wrong",
    [
        ("mppi", {"samples": 1}),
        ("mppi", {"elites": 300}),
        ("mppi", {"elites": True}),
        ("mppi", {"temperature": 0.0}),
        ("mppi", {"std_max": 0.0}),
        ("mppi", {"std_min": 2.0}),
        ("cem", {"momentum": 1.0}),
        ("icem", {"noise_beta": -1.0}),
        ("icem", {"keep_fraction": 0.0}),
        ("icem", {"shrink": 0.5}),
        ("gradient", {"restarts": 0}),
        ("gradient", {"learning_rate": "fast"}),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_name(name, wrong):
    with pytest.raises(ValueError, match=f"planner.{next(iter(wrong))}="):
        planner(name, 2, **wrong)


def test_an_unknown_planner_is_refused_and_the_near_miss_named():
    with pytest.raises(ValueError, match=r"no planner is called 'mpi' \(did you mean mppi"):
        build("mpi", 2)


def test_the_gradient_planner_says_so_where_the_score_has_no_gradient():
    with pytest.raises(ValueError, match="has no gradient"):
        planner("gradient", 2).plan(lambda actions: actions.detach().sum((-1, -2)), 1)
