"""The DeepMind Control Suite by name, behind the same contract as every other env."""

import importlib.util

import numpy as np
import pytest

import envs

needs_dm_control = pytest.mark.skipif(
    importlib.util.find_spec("dm_control") is None, reason="dm_control is not installed; it comes with the extra [dmc]"
)


@pytest.mark.skipif(
    importlib.util.find_spec("dm_control") is not None, reason="dm_control is installed: there is no error"
)
def test_without_dm_control_the_error_names_the_extra():
    with pytest.raises(ModuleNotFoundError, match=r'pip install "worldmodel\[dmc\]"'):
        envs.make("dmc/walker-walk")


@needs_dm_control
def test_a_task_has_the_suites_numbers_and_our_contract():
    from dm_control import suite

    env = envs.make("dmc/cartpole-swingup", observation="both", image_size=24, action_repeat=2)
    assert env.interface == {
        "cameras": {"image": (24, 24, 3)},
        "state_dim": 5,
        "action_dim": 1,
        "discrete": False,
        "privileged_dim": 5,
        "privileged_positions": 3,
        "fps": pytest.approx(50),
        "action_repeat": 2,
    }
    shown, info = env.reset(seed=4)
    theirs = suite.load("cartpole", "swingup", {"random": 4})
    expected = theirs.reset()
    np.testing.assert_allclose(shown["state"], np.concatenate(list(expected.observation.values())), rtol=1e-6)
    for value in (0.5, -1.0):
        shown, reward, terminated, truncated, info = env.step(np.array([value], np.float32))
        rewards = [theirs.step([value]).reward for _ in range(2)]
        assert reward == pytest.approx(sum(rewards)) and info["env_steps"] == 2 and not terminated and not truncated
    np.testing.assert_allclose(info["privileged"][3:], theirs.physics.data.qvel, rtol=1e-6)
    env.close()


@needs_dm_control
def test_pictures_are_the_suites_own_within_3_of_255():
    env = envs.make("dmc/walker-walk")
    shown, _ = env.reset(seed=0)
    own = env.unwrapped._env.physics.render(64, 64, camera_id=0)
    assert np.abs(shown["image"].astype(int) - own).mean() <= 3 and own.std() > 5
    np.testing.assert_array_equal(env.reset(seed=0)[0]["image"], shown["image"])
    env.close()


@needs_dm_control
def test_the_suites_time_limit_truncates_and_an_end_without_a_future_terminates():
    env = envs.make("dmc/reacher-easy", kwargs={"task_kwargs": {"time_limit": 0.1}}, observation="state")
    env.reset(seed=0)
    ends = [env.step(env.neutral_action)[2:4] for _ in range(5)]
    assert ends == [(False, False)] * 4 + [(False, True)]
    short = envs.make("dmc/reacher-easy", max_episode_steps=3, action_repeat=2, observation="state")
    short.reset(seed=0)
    short.step(short.neutral_action)
    *_, truncated, info = short.step(short.neutral_action)
    assert truncated and info["env_steps"] == 1


@needs_dm_control
def test_workers_run_the_suite_too():
    with envs.make_vector(1, 1, id="dmc/reacher-easy", image_size=16) as vector:
        observations, infos = vector.reset([0])
        assert observations["image"].std() > 0 and infos["privileged"].shape == (1, 6)


@needs_dm_control
def test_a_misspelt_task_names_near_misses():
    with pytest.raises(ValueError, match="dmc/walker-walk"):
        envs.make("dmc/walker-wolk")
