"""Objectives score imagined trajectories as a loop by hand does, episode ends included."""

import pytest
import torch

from policies.planners import CautiousObjective, GoalObjective, RewardObjective, WeightedSum
from worldmodel.imagination import Trajectory

ROWS, HORIZON, TOKENS, LATENT, WIDTH = 6, 5, 2, 3, 4


@pytest.fixture
def trajectory():
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    continues = torch.rand(ROWS, HORIZON, generator=generator)
    continues[0, 2] = 0.0  # certainly over after its third step
    continues[1] = 1.0  # certainly endless
    return Trajectory(
        latents=normal(ROWS, HORIZON + 1, TOKENS, LATENT),
        beliefs=normal(ROWS, HORIZON + 1, TOKENS, WIDTH),
        actions=normal(ROWS, HORIZON, 1).clamp(-1, 1),
        rewards=normal(ROWS, HORIZON),
        continues=continues,
        members=list(normal(HORIZON, 3, ROWS, TOKENS, LATENT)),
    )


def critic(beliefs, latents):
    assert beliefs.shape == (ROWS, TOKENS, WIDTH) and latents.shape == (ROWS, TOKENS, LATENT)
    return beliefs.sum((1, 2)) + 10 * latents[:, 0, 0]


@pytest.mark.parametrize("penalty", [0.0, 0.7])
@pytest.mark.parametrize("value", [None, critic])
def test_reward_is_what_a_loop_over_steps_that_may_end_gives(trajectory, value, penalty):
    expected = []
    for row in range(ROWS):
        total, weight = 0.0, 1.0
        for t in range(HORIZON):
            total += weight * (trajectory.rewards[row, t] - penalty * trajectory.disagreement[row, t]).item()
            weight *= 0.9 * trajectory.continues[row, t].item()
        if value is not None:
            total += weight * value(trajectory.beliefs[:, HORIZON], trajectory.latents[:, HORIZON])[row].item()
        expected.append(total)
    score = RewardObjective(0.9, value, penalty)(trajectory)
    torch.testing.assert_close(score, torch.tensor(expected))


def test_nothing_after_an_episodes_end_counts_but_the_reward_of_its_last_step_does(trajectory):
    objective = RewardObjective(0.9, critic)
    before = objective(trajectory)
    trajectory.rewards[0, 3:] += 100.0
    trajectory.beliefs[0, -1] += 100.0
    assert objective(trajectory)[0] == before[0]
    trajectory.rewards[0, 2] += 1.0
    torch.testing.assert_close(objective(trajectory)[0] - before[0], 0.81 * trajectory.continues[0, :2].prod())


def test_reward_passes_gradients_through_an_episodes_end(trajectory):
    trajectory.continues.requires_grad_()
    trajectory.rewards.requires_grad_()
    RewardObjective(0.9, critic)(trajectory).sum().backward()
    assert torch.isfinite(trajectory.continues.grad).all() and trajectory.continues.grad[0, 2] != 0
    assert (trajectory.rewards.grad[0] != 0).tolist() == [True, True, True, False, False]


@pytest.mark.parametrize("reduction, last_steps", [("mean", None), ("min", None), ("mean", 2), ("min", 1)])
def test_the_distance_to_a_goal_leaves_out_what_was_observed(trajectory, reduction, last_steps):
    goal = torch.full((TOKENS, LATENT), 0.5)
    expected = []
    for row in range(ROWS):
        steps = range(1, HORIZON + 1) if last_steps is None else range(HORIZON + 1 - last_steps, HORIZON + 1)
        apart = [(trajectory.latents[row, t] - goal).square().mean().sqrt().item() for t in steps]
        expected.append(-min(apart) if reduction == "min" else -sum(apart) / len(apart))
    score = GoalObjective(goal, last_steps, reduction)(trajectory)
    torch.testing.assert_close(score, torch.tensor(expected))
    trajectory.latents[:, 0] += 5.0
    assert torch.equal(GoalObjective(goal, last_steps, reduction)(trajectory), score)


def test_each_planned_row_can_have_a_goal_of_its_own(trajectory):
    """Three rows of two candidates: candidate c of row b is trajectory 2 b + c."""
    goals = torch.randn(3, TOKENS, LATENT)
    score = GoalObjective(goals)(trajectory)
    for row in range(ROWS):
        torch.testing.assert_close(score[row], GoalObjective(goals[row // 2])(trajectory)[row])


def test_at_the_goal_the_score_is_zero_and_its_gradient_finite(trajectory):
    trajectory.latents[:] = 0.25
    trajectory.latents.requires_grad_()
    score = GoalObjective(torch.full((TOKENS, LATENT), 0.25))(trajectory)
    score.sum().backward()
    assert (score == 0).all() and torch.isfinite(trajectory.latents.grad).all()


def test_a_weighted_sum_weighs_its_terms(trajectory):
    reward, goal = RewardObjective(0.95), GoalObjective(torch.zeros(TOKENS, LATENT))
    torch.testing.assert_close(
        WeightedSum([(2.0, reward), (0.5, goal)])(trajectory), 2 * reward(trajectory) + 0.5 * goal(trajectory)
    )


def test_what_makes_no_sense_is_refused(trajectory):
    for wrong in ({"discount": 1.5}, {"discount": 0.0}, {"discount": 0.9, "disagreement_penalty": -1.0}):
        with pytest.raises(ValueError, match=f"{list(wrong)[-1]}="):
            RewardObjective(**wrong)
    with pytest.raises(ValueError, match="expected"):
        GoalObjective(torch.zeros(3))
    with pytest.raises(ValueError, match="last_steps=0"):
        GoalObjective(torch.zeros(2, 3), last_steps=0)
    with pytest.raises(ValueError, match="reduction='max'"):
        GoalObjective(torch.zeros(2, 3), reduction="max")
    with pytest.raises(ValueError, match="encode the goal with the checkpoint"):
        GoalObjective(torch.zeros(TOKENS, LATENT + 1))(trajectory)
    with pytest.raises(ValueError, match="at least one"):
        WeightedSum([])


def test_a_cautious_objective_loses_what_the_ensemble_disagrees_about(trajectory):
    goal = GoalObjective(torch.zeros(TOKENS, LATENT))
    spread = torch.stack([step.std(0, unbiased=False).square().mean((1, 2)).sqrt() for step in trajectory.members], 1)
    torch.testing.assert_close(CautiousObjective(goal, 2.0)(trajectory), goal(trajectory) - 2.0 * spread.mean(1))
    with pytest.raises(ValueError, match="disagreement_penalty=-1"):
        CautiousObjective(goal, -1.0)
