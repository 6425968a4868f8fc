"""The baselines act within the interface, repeat themselves by their seed, and are built from their YAML."""

from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from policies.baselines import HoldStillPolicy, RandomPolicy
from policies.policy import Policy
from worldmodel.interface import Interface

CONFIGS = Path(__file__).parents[2] / "configs" / "policy"
CONTINUOUS = Interface(cameras={"image": (16, 16, 3)}, action_dim=3)
DISCRETE = Interface(state_dim=4, action_dim=5, discrete=True)
SMOOTH = {"switch": 0.25, "reach": 1.3, "noise": 0.1}


def observation(rows):
    return {"state": np.zeros((rows, 4), np.float32)}


def act(policy, rows, steps):
    """Actions `[rows, steps, A]` of one episode."""
    policy.reset(observation(rows))
    return np.stack([policy.act(observation(rows)) for _ in range(steps)], 1)


@pytest.mark.parametrize("name", ["random", "hold_still"])
@pytest.mark.parametrize("interface", [CONTINUOUS, DISCRETE])
def test_a_baseline_is_built_from_its_yaml_and_is_a_policy(name, interface):
    options = OmegaConf.load(CONFIGS / f"{name}.yaml")
    policy = instantiate(options, _partial_=True)(agent=None, interface=interface, seed=3)
    assert isinstance(policy, Policy)
    actions = act(policy, 4, 3)
    assert actions.shape == (4, 3, interface.action_dim) and actions.dtype == np.float32


@pytest.mark.parametrize("options", [{}, SMOOTH])
def test_random_actions_fill_the_bounds_and_never_leave_them(options):
    actions = act(RandomPolicy(CONTINUOUS, **options), 8, 400)
    assert -1.0 <= actions.min() < -0.99 and 0.99 < actions.max() <= 1.0
    assert abs(actions.mean()) < 0.1


def test_plain_random_actions_are_uniform_and_independent_over_time():
    actions = act(RandomPolicy(CONTINUOUS), 8, 500)
    shares = np.histogram(actions, bins=4, range=(-1, 1))[0] / actions.size
    np.testing.assert_allclose(shares, 0.25, atol=0.02)
    assert abs(np.corrcoef(actions[:, :-1].ravel(), actions[:, 1:].ravel())[0, 1]) < 0.05


def test_a_share_of_the_episodes_is_gentle_from_their_first_step_to_their_last():
    actions = np.abs(act(RandomPolicy(CONTINUOUS, gentle=0.25), 400, 60))
    largest = actions.max((1, 2))  # of each episode, 180 actions: near 1 but for the gentle ones
    assert (largest < 0.9).mean() == pytest.approx(0.25, abs=0.06)
    gentle = largest[largest < 0.9]
    np.testing.assert_allclose(actions[largest < 0.9][:, :20].max((1, 2)), gentle, rtol=0.15)
    shares = np.histogram(np.log10(gentle), bins=2, range=(-2, 0))[0] / len(gentle)
    np.testing.assert_allclose(shares, 0.5, atol=0.2)
    assert gentle.min() > 0.009
    discrete = act(RandomPolicy(DISCRETE, gentle=1.0), 4, 20)
    assert (discrete.max(-1) == 1.0).all()  # choices have no size


def test_smooth_random_actions_are_held_and_redrawn_with_their_probability():
    held = act(RandomPolicy(CONTINUOUS, switch=0.25, reach=1.3), 8, 500)
    changes = (held[:, 1:] != held[:, :-1]).any(-1).mean()
    assert changes == pytest.approx(0.25, abs=0.03)
    assert (np.abs(held) == 1.0).mean() == pytest.approx(0.3 / 1.3, abs=0.05)  # beyond the bounds, cut off
    noisy = act(RandomPolicy(CONTINUOUS, **SMOOTH), 8, 500)
    assert 0.6 < np.corrcoef(noisy[:, :-1].ravel(), noisy[:, 1:].ravel())[0, 1] < 0.85


@pytest.mark.parametrize("switch, changes", [(1.0, 0.8), (0.25, 0.2)])
def test_discrete_random_actions_are_one_hot_and_take_every_choice(switch, changes):
    actions = act(RandomPolicy(DISCRETE, switch=switch, noise=0.5), 8, 400)
    assert np.isin(actions, (0, 1)).all() and (actions.sum(-1) == 1).all()
    np.testing.assert_allclose(actions.mean((0, 1)), 0.2, atol=0.05)
    assert (actions[:, 1:] != actions[:, :-1]).any(-1).mean() == pytest.approx(changes, abs=0.03)


@pytest.mark.parametrize("interface", [CONTINUOUS, DISCRETE])
def test_random_actions_follow_from_the_seed(interface):
    first, again, other = (act(RandomPolicy(interface, seed=seed, **SMOOTH), 2, 20) for seed in (5, 5, 6))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert not np.array_equal(first[0], first[1])


def test_an_episodes_random_actions_do_not_depend_on_the_envs_beside_it():
    alone = RandomPolicy(CONTINUOUS, seed=5, **SMOOTH)
    episodes = [act(alone, 1, 6)[0] for _ in range(3)]

    together = RandomPolicy(CONTINUOUS, seed=5, **SMOOTH)
    together.reset(observation(2))
    early = np.stack([together.act(observation(2)) for _ in range(3)], 1)
    together.reset(observation(2), np.array([False, True]))  # the third episode begins while the first goes on
    late = np.stack([together.act(observation(2)) for _ in range(3)], 1)
    np.testing.assert_array_equal(np.concatenate([early[0], late[0]]), episodes[0])
    np.testing.assert_array_equal(early[1], episodes[1][:3])
    np.testing.assert_array_equal(late[1], episodes[2][:3])


def test_actions_handed_out_are_the_callers_own():
    policy = RandomPolicy(CONTINUOUS, switch=0.0)
    policy.reset(observation(1))
    first = policy.act(observation(1))
    kept = first.copy()
    first[:] = 9.0
    np.testing.assert_array_equal(policy.act(observation(1)), kept)
    still = HoldStillPolicy(CONTINUOUS)
    still.act(observation(1))[:] = 9.0
    assert (still.act(observation(1)) == 0).all()


def test_acting_before_a_reset_says_what_to_call():
    with pytest.raises(ValueError, match="call policy.reset"):
        RandomPolicy(CONTINUOUS).act(observation(2))


@pytest.mark.parametrize("wrong", [{"switch": 1.5}, {"reach": 0.0}, {"noise": -0.1}, {"noise": float("nan")}])
def test_a_random_option_out_of_range_is_refused_by_name(wrong):
    with pytest.raises(ValueError, match=f"policy.{next(iter(wrong))}="):
        RandomPolicy(CONTINUOUS, **wrong)


def test_holding_still_is_zero_the_first_choice_or_the_given_action():
    assert (act(HoldStillPolicy(CONTINUOUS), 3, 2) == 0).all()
    assert act(HoldStillPolicy(DISCRETE), 1, 1)[0, 0].tolist() == [1, 0, 0, 0, 0]
    given = act(HoldStillPolicy(CONTINUOUS, neutral_action=[0.5, -1.0, 0.0]), 2, 2)
    assert (given == np.array([0.5, -1.0, 0.0], np.float32)).all()
    assert act(HoldStillPolicy(DISCRETE, neutral_action=[0, 0, 1, 0, 0]), 1, 1)[0, 0].tolist() == [0, 0, 1, 0, 0]


@pytest.mark.parametrize(
    "interface, action, why",
    [
        (CONTINUOUS, [0.0, 0.0], "must be 3 numbers"),
        (CONTINUOUS, [0.0, 0.0, 1.5], "must be 3 numbers in"),
        (CONTINUOUS, [0.0, 0.0, float("nan")], "must be 3 numbers in"),
        (DISCRETE, [0.5, 0.5, 0.0, 0.0, 0.0], "one 1 among zeros"),
    ],
)
def test_a_neutral_action_that_does_not_fit_is_refused(interface, action, why):
    with pytest.raises(ValueError, match=why):
        HoldStillPolicy(interface, neutral_action=action)
