"""Random actions that take over from a policy for a few steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from policies.bursts import STEPS, Bursts

ROWS, STEPS_RUN = 16, 2000


def run(rate: float, dim: int = 2, discrete: bool = False, steps: int = STEPS_RUN) -> tuple[np.ndarray, np.ndarray]:
    """Actions `[T, B, A]` of a policy that always answers .5 (or the first choice), and where a burst ran, `[T, B]`."""
    bursts = Bursts(rate, ROWS, dim, discrete, torch.Generator().manual_seed(0))
    own = torch.eye(dim)[:1].expand(ROWS, dim) if discrete else torch.full((ROWS, dim), 0.5)
    actions, running = [], []
    for _ in range(steps):
        actions.append(bursts(own).numpy())
        running.append(bursts.running.numpy())
    return np.stack(actions), np.stack(running)


def lengths(running: np.ndarray) -> np.ndarray:
    """Of all finished bursts."""
    edges = np.diff(np.pad(running, ((1, 0), (0, 0))).astype(int), axis=0)
    found = []
    for row in edges.T:
        begins, ends = np.flatnonzero(row == 1), np.flatnonzero(row == -1)
        found += list(ends[: len(begins)] - begins[: len(ends)])
    return np.array(found)


def test_they_begin_and_last_as_often_and_as_long_as_they_should():
    _, running = run(0.1)
    assert lengths(running).mean() == pytest.approx(STEPS, rel=0.1)
    assert running.mean() == pytest.approx(STEPS / (STEPS + 1 / 0.1), rel=0.1)


def test_one_action_is_held_through_each_and_the_policy_acts_elsewhere():
    actions, running = run(0.1)
    assert (actions[~running] == 0.5).all()
    goes_on = running[1:] & running[:-1]
    np.testing.assert_array_equal(actions[1:][goes_on], actions[:-1][goes_on])
    begun = running[1:] & ~running[:-1]
    drawn = actions[1:][begun]
    assert np.abs(drawn).max() == 1.0 and abs(drawn.mean()) < 0.05
    assert (np.abs(drawn) == 1.0).mean() == pytest.approx(1 - 1 / 1.3, abs=0.05)  # full force is frequent


def test_discrete_ones_are_choices_of_equal_chance():
    actions, running = run(0.2, dim=3, discrete=True)
    assert (actions.sum(-1) == 1).all() and set(np.unique(actions)) == {0, 1}
    begun = running[1:] & ~running[:-1]
    np.testing.assert_allclose(actions[1:][begun].mean(0), 1 / 3, atol=0.04)


def test_an_episodes_end_ends_its_burst_alone():
    bursts = Bursts(1.0, 3, 1, False, torch.Generator().manual_seed(0))
    bursts(torch.zeros(3, 1))
    assert bursts.running.all()
    bursts.end(torch.tensor([True, False, False]))
    assert bursts.running.tolist() == [False, True, True]


@pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan")])
def test_a_rate_that_is_no_probability_is_refused(rate):
    with pytest.raises(ValueError, match=r"training\.online\.bursts=.*from 0 to 1"):
        Bursts(rate, 1, 1, False, torch.Generator())
