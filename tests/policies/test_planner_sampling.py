"""What sets the sampling planners apart: how they weigh, what they keep, the noise they draw."""

from pathlib import Path

import pytest
import torch
import yaml

from policies.planners import build

CONFIGS = Path(__file__).parents[2] / "configs" / "planner"


def planner(name, action_dim, **changes):
    return build(
        action_dim=action_dim, **{**yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()), "horizon": 10, **changes}
    )


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Quadratic:
    """Minus the squared distance to `target [B, H, A]`; keeps what it is shown."""

    def __init__(self, target):
        self.target, self.seen = target, []

    def __call__(self, actions):
        self.seen.append(actions.clone())
        return -(actions - self.target[:, None]).square().sum((-1, -2))


@pytest.mark.parametrize(
    "name, greedy",
    [
        ("mppi", {"temperature": 1e-3}),
        ("cem", {"elites": 1, "momentum": 0.0}),
        ("icem", {"elites": 1, "momentum": 0.0}),
    ],
)
def test_a_good_proposal_stays_in_the_running_in_all_rounds(name, greedy):
    """Where the best candidate alone makes the next mean, the last mean is the proposal that nothing has beaten."""
    score = Quadratic(torch.rand(2, 6, 3, generator=seeded(1)) - 0.5)
    planner(name, 3, horizon=6, **greedy).plan(score, 2, score.target[:, None], seeded())
    torch.testing.assert_close(score.seen[-1][:, 0], score.target)


def test_mppi_weighs_elites_by_the_spread_of_their_scores_not_by_their_units():
    scores = torch.tensor([[3.0, 2.0, 1.0], [3e6, 2e6, 1e6], [5.0, 5.0, 5.0], [4.0, float("-inf"), float("-inf")]])
    weights = planner("mppi", 1, elites=3, temperature=1.0)._weights(scores)
    ratio = torch.exp(torch.tensor(-(1.5**0.5)))  # neighbours are one standard deviation, sqrt(2/3), apart: 1 / 0.816
    expected = torch.tensor([1.0, ratio, ratio**2]) / (1 + ratio + ratio**2)
    torch.testing.assert_close(weights[0], expected)
    torch.testing.assert_close(weights[1], expected)
    torch.testing.assert_close(weights[2], torch.full((3,), 1 / 3))
    assert weights[3].tolist() == [1.0, 0.0, 0.0]


def test_icem_carries_its_elites_into_the_next_plan_but_not_over_a_reset():
    score = Quadratic(torch.tensor([0.9, -0.9]).repeat(2, 6, 1))
    search = planner("icem", 2, horizon=6, iterations=1, elites=8, keep_fraction=0.5)
    search.plan(score, 2, generator=seeded())
    first = score.seen[0]
    best = score(first).topk(4, 1).indices
    elites = first[torch.arange(2)[:, None], best]
    moved_on = torch.cat([elites[:, :, 1:], elites[:, :, -1:]], 2)
    score.seen.clear()
    search.reset([False, True])
    search.plan(score, 2, generator=seeded(1))
    found = (score.seen[0][:, :, None] == moved_on[:, None]).all((-1, -2)).any(1)
    assert found[0].all() and not found[1].any()


def test_icem_shrinks_its_population_and_ends_with_the_mean():
    score = Quadratic(torch.full((1, 6, 2), 0.3))
    planner("icem", 2, horizon=6, iterations=4, samples=100, elites=20, shrink=2.0).plan(score, 1, generator=seeded())
    assert [seen.shape[1] for seen in score.seen] == [100, 50, 40, 40, 1]
    assert score(score.seen[3])[0].argmax() == 0  # the mean is smoother than any sample around it


def test_icem_noise_has_unit_variance_and_holds_actions_longer_the_higher_its_beta():
    jumps = []
    for beta in (0.0, 1.0, 3.0):
        sample = planner("icem", 2, horizon=16, noise_beta=beta)._noise(1, 20000, seeded())[0]
        torch.testing.assert_close(sample.std(0), torch.ones(16, 2), atol=0.03, rtol=0)
        jumps.append(sample.diff(dim=1).square().mean().item())
    assert jumps[0] == pytest.approx(2.0, abs=0.05)  # white: neighbours are independent
    assert jumps[0] > 1.5 * jumps[1] > 3 * jumps[2]
