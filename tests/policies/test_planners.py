"""Planners find known optima, never leave the bounds, repeat themselves by their generator and heed a deadline."""

import itertools
import time
from pathlib import Path

import pytest
import torch
import yaml

from policies.planners import PLANNERS, PlanningError, build

CONFIGS = Path(__file__).parents[2] / "configs" / "planner"
NAMES = list(PLANNERS)


def planner(name, action_dim, discrete=False, **changes):
    options = {**yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()), "horizon": 10, **changes}
    return build(action_dim=action_dim, discrete=discrete, **options)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Quadratic:
    """Minus the squared distance to `target [B, H, A]`; checks what it is shown, counts how often, keeps it."""

    def __init__(self, target, seconds=0.0):
        self.target, self.seconds, self.seen = target, seconds, []

    def __call__(self, actions):
        assert actions.shape[0] == self.target.shape[0] and actions.shape[2:] == self.target.shape[1:]
        assert actions.abs().max() <= 1.0
        time.sleep(self.seconds)
        self.seen.append(actions.detach().clone())
        return -(actions - self.target[:, None]).square().sum((-1, -2))


class Matches:
    """How many steps choose as the sequence `choices [B, H]` does; checks that all it is shown is exactly one-hot."""

    def __init__(self, choices, count):
        self.wanted, self.seen = torch.nn.functional.one_hot(choices, count).float(), []

    def __call__(self, actions):
        assert ((actions == 0) | (actions == 1)).all() and (actions.sum(-1) == 1).all()
        self.seen.append(actions.detach().clone())
        return (actions * self.wanted[:, None]).sum((-1, -2))


@pytest.mark.parametrize("name", NAMES)
def test_the_optimum_of_a_quadratic_is_found_in_every_row(name):
    target = torch.rand(3, 5, 2, generator=seeded(1)) * 1.6 - 0.8
    score = Quadratic(target)
    plan = planner(name, 2, horizon=5, iterations=60).plan(score, 3, generator=seeded())
    assert plan.actions.shape == (3, 5, 2)
    torch.testing.assert_close(plan.actions, target, atol=0.03, rtol=0)
    torch.testing.assert_close(plan.score, score(plan.actions[:, None])[:, 0])


@pytest.mark.parametrize("name", NAMES)
def test_an_optimum_outside_the_bounds_is_found_at_the_bound(name):
    target = torch.tensor([[[3.0, -1.0]] * 4, [[-5.0, 0.2]] * 4]).repeat(20, 1, 1)
    plan = planner(name, 2, horizon=4, iterations=40).plan(Quadratic(target), 40, generator=seeded())
    assert plan.actions.abs().max() <= 1.0
    torch.testing.assert_close(plan.actions, target.clamp(-1, 1), atol=0.08, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_the_best_discrete_sequence_is_found_in_every_row(name):
    choices = torch.randint(4, (3, 6), generator=seeded(2))
    score = Matches(choices, 4)
    plan = planner(name, 4, discrete=True, horizon=6, iterations=20).plan(score, 3, generator=seeded())
    assert torch.equal(plan.actions, score.wanted)
    assert plan.score.tolist() == [6.0, 6.0, 6.0]


@pytest.mark.parametrize("name", NAMES)
def test_a_discrete_search_agrees_with_trying_everything(name):
    """Steps depend on each other here: a choice counts more where it repeats the one before."""
    table, bonus = torch.randn(4, 3, generator=seeded(3)), torch.randn(3, 3, generator=seeded(4))

    def score(actions):
        pairs = torch.einsum("bcti,ij,bctj->bc", actions[:, :, :-1], bonus, actions[:, :, 1:])
        return (actions * table).sum((-1, -2)) + pairs

    every = torch.tensor(list(itertools.product(range(3), repeat=4)))
    best = score(torch.nn.functional.one_hot(every, 3).float()[None]).max()
    plan = planner(name, 3, discrete=True, horizon=4, iterations=15).plan(score, 1, generator=seeded())
    assert plan.score.item() == pytest.approx(best.item(), abs=1e-5)


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_plan_is_never_worse_than_the_best_candidate_that_was_scored(name, discrete):
    weights = torch.randn(2, 6, 3, generator=seeded(5))
    scores = []

    def rugged(actions):
        scores.append((torch.sin(7 * actions) * weights[:, None]).sum((-1, -2)))
        return scores[-1]

    plan = planner(name, 3, discrete=discrete, horizon=6).plan(rugged, 2, generator=seeded())
    assert torch.equal(plan.score, torch.cat(scores, 1).amax(1))
    assert torch.equal(plan.score, rugged(plan.actions[:, None])[:, 0])


@pytest.mark.parametrize("name", NAMES)
def test_proposals_are_candidates_of_the_first_round(name):
    target = torch.rand(2, 5, 2, generator=seeded(1)) * 2 - 1
    noise = torch.randn(2, 3, 5, 2, generator=seeded(2))
    proposals = (target[:, None] + torch.tensor([0.5, 0.0, 1.0])[:, None, None] * noise).clamp(-1, 1)
    score = Quadratic(target)
    plan = planner(name, 2, horizon=5, iterations=1).plan(score, 2, proposals, seeded())
    assert torch.equal(plan.actions, target)
    assert all((score.seen[0] == p[:, None]).all((-1, -2)).any(1).all() for p in proposals.unbind(1))


@pytest.mark.parametrize("name", NAMES)
def test_discrete_proposals_are_scored_as_they_are(name):
    choices = torch.randint(6, (2, 8), generator=seeded(2))
    score = Matches(choices, 6)
    plan = planner(name, 6, discrete=True, horizon=8, iterations=1).plan(score, 2, score.wanted[:, None], seeded())
    assert torch.equal(plan.actions, score.wanted)


@pytest.mark.parametrize("name", ["mppi", "cem", "icem"])
def test_good_proposals_make_a_short_search_better(name):
    target = torch.rand(8, 10, 6, generator=seeded(1)) * 2 - 1
    near = (target[:, None] + 0.2 * torch.randn(8, 4, 10, 6, generator=seeded(2))).clamp(-1, 1)
    alone = planner(name, 6, iterations=2).plan(Quadratic(target), 8, generator=seeded())
    helped = planner(name, 6, iterations=2).plan(Quadratic(target), 8, near, seeded())
    assert (helped.score > alone.score + 1).all()


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_the_last_plan_moved_on_by_a_step_is_a_candidate_until_reset(name, discrete):
    if discrete:
        score = Matches(torch.randint(1, 5, (2, 6), generator=seeded(1)), 5)
    else:
        score = Quadratic(torch.rand(2, 6, 5, generator=seeded(1)) - 0.5)
    search = planner(name, 5, discrete=discrete, horizon=6)
    last = search.plan(score, 2, generator=seeded()).actions
    moved_on = torch.cat([last[:, 1:], last[:, -1:]], 1)

    score.seen.clear()
    search.reset(torch.tensor([True, False]))
    search.plan(score, 2, generator=seeded(1))
    held = (score.seen[0] == moved_on[:, None]).all((-1, -2)).any(1)
    assert held.tolist() == [False, True]

    for everything in (None, [False] * 3):  # a mask of another length: the envs are others
        search.reset(everything)
        assert torch.equal(search.plan(score, 2, generator=seeded()).actions, last)


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_the_same_generator_makes_the_same_candidates_and_plans(name, discrete):
    weights = torch.randn(2, 10, 3, generator=seeded(5))

    def everything(seed):
        search, generator, seen = planner(name, 3, discrete=discrete, proposals=0), seeded(seed), []
        torch.manual_seed(time.time_ns() % 2**31)  # nothing may come from torch's own generator

        def score(actions):
            seen.append(actions.detach().clone())
            return (torch.sin(5 * actions) * weights[:, None]).sum((-1, -2))

        return [search.plan(score, 2, generator=generator).actions for _ in range(3)] + seen

    first, again, other = everything(7), everything(7), everything(8)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[3], other[3])


@pytest.mark.parametrize("name", NAMES)
def test_a_deadline_limits_the_rounds_and_the_best_plan_so_far_comes_back(name):
    target = torch.zeros(1, 3, 1)
    slow = Quadratic(target, seconds=0.03)
    hurried = planner(name, 1, horizon=3, iterations=1000, budget_ms=1.0).plan(slow, 1, generator=seeded())
    assert hurried.iterations == len(slow.seen) == 1
    assert hurried.score == -slow.seen[0].square().sum((-1, -2)).min()

    some = planner(name, 1, horizon=3, iterations=1, budget_ms=400.0).plan(slow, 1, generator=seeded())
    assert 2 <= some.iterations <= 13  # a round takes 30 ms and more


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", NAMES)
def test_candidates_that_score_nan_or_infinity_are_never_chosen(name, broken, discrete):
    """All but a few candidates are broken, fewer than there are elites."""
    target = torch.full((2, 4, 3), 0.5)

    def score(actions):
        scores = -(actions - target[:, None]).square().sum((-1, -2))
        place = torch.arange(actions.shape[1])
        return torch.where((place % 12 == 5) | (place == 0), scores, broken)

    plan = planner(name, 3, discrete=discrete, horizon=4).plan(score, 2, generator=seeded())
    assert torch.isfinite(plan.score).all() and torch.isfinite(plan.actions).all()
    expected = -(plan.actions - target).square().sum((-1, -2))
    torch.testing.assert_close(plan.score, expected)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_in_which_everything_is_nan_is_named(name):
    def score(actions):
        return actions.sum((-1, -2)) * torch.tensor([1.0, float("nan"), 1.0])[:, None]

    with pytest.raises(PlanningError, match="row 1 of 3 scored NaN"):
        planner(name, 2).plan(score, 3, generator=seeded())


def push(position, velocity, action, seconds=0.1):
    """One step of a point mass that actions accelerate, by up to 2 m/s^2."""
    velocity = velocity + 2.0 * seconds * action
    return position + seconds * velocity, velocity


class Closeness:
    """Minus the summed squared distance of point masses `[B, 1]` to their goals, with a little for their speed."""

    def __init__(self, position, velocity, goal):
        self.position, self.velocity, self.goal = position[:, None], velocity[:, None], goal[:, None]

    def __call__(self, actions):
        position, velocity, score = self.position, self.velocity, 0.0
        for action in actions.unbind(2):
            position, velocity = push(position, velocity, action)
            score = score - (position - self.goal).square() - 0.1 * velocity.square()
        return score[..., 0]


@pytest.mark.parametrize("name", NAMES)
def test_a_planner_with_the_true_dynamics_brings_a_point_mass_to_its_goal(name):
    """Two of them start at rest, a metre off, and are planned anew at every step."""
    position, velocity, goal = torch.tensor([[1.0], [-0.5]]), torch.zeros(2, 1), torch.tensor([[0.0], [0.5]])
    search, generator = planner(name, 1, horizon=12), seeded()
    for _ in range(40):
        plan = search.plan(Closeness(position, velocity, goal), 2, generator=generator)
        position, velocity = push(position, velocity, plan.actions[:, 0])
    torch.testing.assert_close(position, goal, atol=0.06, rtol=0)
    assert velocity.abs().max() < 0.15


def test_planning_leaves_no_graph_behind_and_works_where_gradients_are_off():
    weight = torch.ones(2, requires_grad=True)
    for name in NAMES:
        with torch.no_grad():
            plan = planner(name, 2).plan(lambda actions: (actions * weight).sum((-1, -2)), 1, generator=seeded())
        assert not plan.actions.requires_grad and not plan.score.requires_grad and weight.grad is None


@pytest.mark.parametrize("name", NAMES)
def test_a_search_begins_where_it_is_told_to_and_forgets_the_last_plan(name):
    start = torch.rand(2, 5, 2, generator=seeded(1)) * 2 - 1
    score = Quadratic(start)
    one = planner(name, 2, horizon=5, iterations=1)
    one.plan(Quadratic(torch.zeros(3, 5, 2)), 3, generator=seeded())  # of another number of rows
    plan = one.plan(score, 2, generator=seeded(), start=start)
    assert torch.equal(score.seen[0][:, 0], start) and torch.equal(plan.actions, start)
    one.plan(score, 2, generator=seeded())
    moved = torch.cat([start[:, 1:], start[:, -1:]], 1)
    assert torch.equal(score.seen[-1][:, 0] if len(score.seen[-1][0]) > 1 else score.seen[-2][:, 0], moved)
