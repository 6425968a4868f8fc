"""Meta-World by name, behind the same contract as every other env."""

import importlib.util

import numpy as np
import pytest

import envs
from envs.metaworld import INSTRUCTIONS

has_metaworld = importlib.util.find_spec("metaworld") is not None
needs_metaworld = pytest.mark.skipif(
    not has_metaworld, reason="metaworld is not installed; it comes with the extra [metaworld]"
)


def plain_suite(task, seed, **options):
    """The suite's own env, as a stranger to us makes it: random goals from a seed, and the goal shown."""
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    env = ALL_V3_ENVIRONMENTS[task](**options)
    env._freeze_rand_vec, env.seeded_rand_vec, env._set_task_called = False, True, True
    env._partially_observable = False
    del env.sawyer_observation_space
    env.seed(seed)
    return env


def act(env, steps):
    """The rewards and the last observation of `steps` actions, the same for every env."""
    rng, rewards = np.random.default_rng(0), []
    for _ in range(steps):
        shown, reward, *_ = env.step(rng.uniform(-1, 1, 4).astype(np.float32))
        rewards.append(reward)
    return rewards, shown


def solve(env, seed, steps=200):
    """The expert's episode, to its end or for `steps` steps: whether each of them was a success, and the last step."""
    env.reset(seed=seed)
    successes = []
    for _ in range(steps):
        *_, terminated, truncated, info = env.step(env.expert_action())
        successes.append(info["success"])
        if terminated or truncated:
            break
    return successes, terminated, truncated


@pytest.mark.skipif(has_metaworld, reason="metaworld is installed: there is no error")
def test_without_metaworld_the_error_names_the_extra():
    with pytest.raises(ModuleNotFoundError, match=r'pip install "worldmodel\[metaworld\]"'):
        envs.make("metaworld/push-v3")


def test_a_misspelt_task_names_near_misses():
    with pytest.raises(ValueError, match="metaworld/drawer-open-v3"):
        envs.make("metaworld/drawer-opne-v3")


def test_no_two_tasks_share_an_instruction():
    assert len(set(INSTRUCTIONS.values())) == len(INSTRUCTIONS) == 50


@needs_metaworld
def test_every_task_of_the_suite_has_an_instruction_and_an_expert():
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS
    from metaworld.policies import ENV_POLICY_MAP

    assert set(INSTRUCTIONS) == set(ALL_V3_ENVIRONMENTS) == set(ENV_POLICY_MAP)


@needs_metaworld
def test_a_task_has_the_suites_numbers_and_our_contract():
    env = envs.make("metaworld/push-v3", observation="both", image_size=24, action_repeat=2)
    assert env.interface == {
        "cameras": {"image": (24, 24, 3)},
        "state_dim": 4,
        "action_dim": 4,
        "discrete": False,
        "privileged_dim": 41,
        "privileged_positions": 26,
        "fps": pytest.approx(40),
        "action_repeat": 2,
    }
    shown, info = env.reset(seed=4)
    assert info["instruction"] == env.unwrapped.instruction == "push the puck to the goal"
    theirs = plain_suite("push-v3", seed=4)
    expected, _ = theirs.reset()
    np.testing.assert_allclose(shown["state"], expected[:4], rtol=1e-6)
    for value in (0.5, -1.0):
        action = np.full(4, value, np.float32)
        shown, reward, terminated, truncated, info = env.step(action)
        two = [theirs.step(action) for _ in range(2)]
        assert reward == pytest.approx(two[0][1] + two[1][1]) and not terminated and not truncated
        np.testing.assert_allclose(shown["state"], two[1][0][:4], rtol=1e-6)
        assert info["success"] is False and info["env_steps"] == 2 and info["instruction"].startswith("push")
    np.testing.assert_allclose(info["privileged"][26:], theirs.data.qvel, rtol=1e-5)
    env.close()


@needs_metaworld
def test_an_episode_follows_from_its_seed_alone():
    def first(env):
        return env.reset(seed=3)[0]["image"]

    options = {"id": "metaworld/pick-place-v3", "image_size": 32, "observation": "both"}
    fresh, used, other = envs.make(**options), envs.make(**options), envs.make("metaworld/soccer-v3", image_size=16)
    other.reset(seed=1)
    used.reset(seed=8)
    act(used, 12)
    before = np.random.get_state()[1].copy()
    image = first(fresh)
    other.close()
    np.testing.assert_array_equal(first(used), image)
    (rewards, shown), (rewards_again, shown_again) = act(fresh, 12), act(used, 12)
    assert rewards == rewards_again
    np.testing.assert_array_equal(shown["image"], shown_again["image"])
    fresh.close()
    np.testing.assert_array_equal(first(used), image)
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    used.close()


@needs_metaworld
def test_every_reset_draws_another_goal_and_the_next_one_follows_from_the_seed_too():
    def goals():
        env = envs.make("metaworld/reach-v3", observation="state", kwargs={"full_state": True})
        first = env.reset(seed=5)[0]["state"][-3:]
        return np.stack([first, *(env.reset()[0]["state"][-3:] for _ in range(3))])

    one, other = goals(), goals()
    np.testing.assert_array_equal(one, other)
    assert len(np.unique(one, axis=0)) == 4


@needs_metaworld
def test_the_four_numbers_of_a_pixel_policy_do_not_show_the_goal():
    hidden = envs.make("metaworld/reach-v3", observation="both", image_size=16)
    full = envs.make("metaworld/reach-v3", observation="state", kwargs={"full_state": True})
    hand, goal, rewards = [], [], []
    for seed in (0, 1):
        hidden.reset(seed=seed)
        full.reset(seed=seed)
        gained, shown = act(hidden, 5)
        _, everything = act(full, 5)
        np.testing.assert_array_equal(shown["state"], everything["state"][:4])
        assert shown["state"].shape == (4,) and everything["state"].shape == (39,)
        hand.append(shown["state"])
        goal.append(everything["state"][-3:])
        rewards.append(gained[-1])
    np.testing.assert_allclose(hand[0], hand[1], atol=1e-5)
    assert np.abs(goal[0] - goal[1]).max() > 0.01 and rewards[0] != rewards[1]


@needs_metaworld
@pytest.mark.parametrize("camera", ["corner4", "corner2"])
@pytest.mark.parametrize("task", ["push-v3", "door-open-v3"])
def test_pictures_are_the_suites_own_turned_upright_within_3_of_255(task, camera):
    env = envs.make(f"metaworld/{task}", cameras=[camera])
    theirs = plain_suite(task, 2, render_mode="rgb_array", camera_name=camera, width=64, height=64)
    env.reset(seed=2)
    theirs.reset()
    for _ in range(3):
        action = env.expert_action()
        shown, *_ = env.step(action)
        theirs.step(action)
    own = theirs.render()[::-1, ::-1].astype(int)
    assert np.abs(shown["image"] - own).mean() <= 3 and own.std() > 5
    assert np.abs(shown["image"][::-1, ::-1] - own).mean() > 30
    theirs.close()
    env.close()


@needs_metaworld
def test_the_own_view_is_corner4_and_the_first_picture_shows_this_episodes_goal():
    env = envs.make("metaworld/reach-v3", kwargs={"full_state": True}, observation="both")
    near = envs.make("metaworld/reach-v3", cameras=["corner4"])
    for seed in (0, 1):
        shown, _ = env.reset(seed=seed)
        np.testing.assert_allclose(env.unwrapped.data.site("goal").xpos, shown["state"][-3:], atol=1e-6)
        np.testing.assert_array_equal(near.reset(seed=seed)[0]["image"], shown["image"])
    env.close()
    near.close()


@needs_metaworld
@pytest.mark.parametrize("task", ["drawer-open-v3", "button-press-v3", "pick-place-v3", "push-v3", "window-close-v3"])
def test_the_expert_succeeds_and_the_episode_goes_on(task):
    env = envs.make(f"metaworld/{task}", observation="state")
    successes, terminated, truncated = solve(env, seed=0)
    assert not successes[0] and any(successes) and len(successes) == 200 and not terminated and not truncated


@needs_metaworld
def test_success_ends_an_episode_where_that_is_asked_for():
    env = envs.make("metaworld/reach-v3", observation="state", kwargs={"terminate_on_success": True})
    successes, terminated, truncated = solve(env, seed=0)
    assert successes == [False] * (len(successes) - 1) + [True] and terminated and not truncated


@needs_metaworld
@pytest.mark.parametrize(("given", "limit"), [(None, 500), (3, 3), (502, 502)])
def test_the_time_limit_truncates(given, limit):
    env = envs.make("metaworld/reach-v3", observation="state", max_episode_steps=given)
    env.reset(seed=0)
    ends = [env.step(env.neutral_action)[2:4] for _ in range(limit)]
    assert ends == [(False, False)] * (limit - 1) + [(False, True)]


@needs_metaworld
def test_a_given_instruction_takes_the_place_of_the_tasks_own():
    env = envs.make("metaworld/reach-v3", observation="state", instruction="touch the red ball")
    assert env.reset(seed=0)[1]["instruction"] == env.unwrapped.instruction == "touch the red ball"
    assert env.step(env.neutral_action)[-1]["instruction"] == "touch the red ball"


@needs_metaworld
def test_workers_run_the_suite_too():
    with envs.make_vector(1, 1, id="metaworld/reach-v3", image_size=16) as vector:
        observations, infos = vector.reset([0])
        assert observations["image"].std() > 0 and infos["privileged"].shape == (1, 41)


@needs_metaworld
def test_the_expert_needs_an_episode():
    with pytest.raises(RuntimeError, match="reset"):
        envs.make("metaworld/reach-v3", observation="state").expert_action()


@needs_metaworld
@pytest.mark.parametrize("workers", [0, 2])
def test_the_expert_stands_beside_the_observations_of_a_vector(workers):
    with envs.make_vector(2, workers, id="metaworld/reach-v3", observation="state", expert=True) as vector:
        observations, _ = vector.reset([0, 1])
        for _ in range(60):
            observations, _, _, _, infos = vector.step(observations["expert_action"])
    assert infos["success"].all() and "expert_action" not in infos


@needs_metaworld
def test_an_episode_without_a_step_is_an_error():
    with pytest.raises(ValueError, match="env.max_episode_steps=0"):
        envs.make("metaworld/reach-v3", max_episode_steps=0)
