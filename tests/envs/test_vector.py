"""Several envs at once: the same numbers in this process and in workers, ends left to the caller, frozen rows."""

import numpy as np
import pytest
from counting_env import LENGTH, read_frame

import envs

CARTPOLE = {"id": "worldmodel/CartpoleSwingup-v0", "image_size": 16}
COUNTING = {"id": "counting_env:test/Counting-v0", "image_size": 8}


def rollout(workers, steps=6, **options):
    """Everything a short rollout of two rows gives, one after the other."""
    rng, seen = np.random.default_rng(0), []
    with envs.make_vector(2, workers, **options) as vector:
        seen.append(vector.reset([5, 6]))
        for _ in range(steps):
            observations, rewards, terminated, truncated, infos = vector.step(rng.uniform(-1, 1, (2, 1)))
            seen.append((observations, {**infos, "rewards": rewards, "terminated": terminated, "truncated": truncated}))
        frames = vector.render_frame(24, 0), vector.render_frame(24, 1)
    return seen, frames


def test_workers_give_the_numbers_and_pictures_of_this_process():
    here, there = rollout(0, **CARTPOLE), rollout(2, **CARTPOLE)
    for (observations, infos), (their_observations, their_infos) in zip(here[0], there[0]):
        assert observations.keys() == their_observations.keys() == {"image"} and infos.keys() == their_infos.keys()
        assert observations["image"].shape == (2, 16, 16, 3) and infos["privileged"].shape == (2, 5)
        np.testing.assert_array_equal(observations["image"], their_observations["image"])
        for key in infos:
            np.testing.assert_array_equal(infos[key], their_infos[key])
    np.testing.assert_array_equal(here[1], there[1])
    assert here[1][0].shape == (24, 24, 3) and (here[1][0] != here[1][1]).any()


@pytest.mark.parametrize("workers", [0, 2])
def test_actions_lead_to_the_next_observation_of_their_own_row(workers):
    with envs.make_vector(2, workers, action_repeat=2, **COUNTING) as vector:
        observations, infos = vector.reset([None, None])
        assert infos["env_steps"].tolist() == [0, 0]
        for t, pair in enumerate([(0.5, -1.0), (0.0, 0.25)]):
            observations, rewards, terminated, truncated, infos = vector.step(np.array(pair)[:, None])
            for row, action in enumerate(pair):
                assert read_frame(observations["image"][row])[:2] == (2 * t + 2, pytest.approx(action))
            np.testing.assert_allclose(rewards, 2 * np.array(pair))
            assert rewards.dtype == np.float32 and infos["env_steps"].tolist() == [2, 2]
            assert not terminated.any() and not truncated.any()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_row_freezes_at_its_end_until_it_is_reset(workers):
    ones = np.ones((2, 1), np.float32)
    with envs.make_vector(2, workers, **COUNTING) as vector:
        vector.reset([0, 0])
        for _ in range(3):
            vector.step(ones)
        vector.reset([None, 0], mask=np.array([False, True]))  # row 1 is now three steps behind
        for _ in range(LENGTH - 3):
            observations, rewards, terminated, truncated, infos = vector.step(ones)
        assert terminated.tolist() == [True, False] and rewards.tolist() == [1, 1]
        for _ in range(2):
            observations, rewards, terminated, truncated, infos = vector.step(ones)
            assert read_frame(observations["image"][0])[0] == LENGTH
            assert rewards.tolist() == [0, 1] and infos["env_steps"].tolist() == [0, 1]
            assert terminated.tolist() == [True, False] and not truncated.any()
        observations, infos = vector.reset([1, None], mask=np.array([True, False]))
        assert [read_frame(frame)[0] for frame in observations["image"]] == [0, LENGTH - 1]
        observations, rewards, terminated, truncated, infos = vector.step(ones)
        assert [read_frame(frame)[0] for frame in observations["image"]] == [1, LENGTH]
        assert terminated.tolist() == [False, True]


def test_what_a_step_returned_is_not_changed_by_the_next():
    ones = np.ones((2, 1), np.float32)
    with envs.make_vector(2, 0, **COUNTING) as vector:
        vector.reset([0, 0])
        observations, rewards, terminated, _, infos = vector.step(ones)
        for _ in range(LENGTH):
            vector.step(ones)
    assert read_frame(observations["image"][0])[0] == 1 and rewards.tolist() == [1, 1]
    assert not terminated.any() and infos["env_steps"].tolist() == [1, 1]


def test_success_is_told_per_row():
    fast, slow = [1.0, 0.0], [-1.0, 0.0]
    with envs.make_vector(2, 0, id="test/TwoCamera-v0", observation="state") as vector:
        vector.reset([0, 1])
        for _ in range(8):
            _, _, terminated, _, infos = vector.step(np.array([fast, slow]))
    assert infos["success"].tolist() == [True, False] and terminated.tolist() == [True, False]


def test_options_reach_every_row_and_seeds_are_each_rows_own():
    with envs.make_vector(3, 0, **CARTPOLE) as vector:
        _, plain = vector.reset([1, 1, 2])
        _, broad = vector.reset([1, 1, 2], options={"broad": True})
    assert (plain["privileged"][0] == plain["privileged"][1]).all() and (
        plain["privileged"][0] != plain["privileged"][2]
    ).any()
    assert np.abs(broad["privileged"][:, 4]).max() > 0.5 > np.abs(plain["privileged"][:, 4]).max()


def test_the_interface_is_that_of_one_env():
    with envs.make_vector(2, 0, **CARTPOLE) as vector:
        assert vector.count == 2 and vector.interface == envs.make(**CARTPOLE).interface
        assert vector.neutral_action.tolist() == [0]


def test_misuse_is_explained():
    with pytest.raises(ValueError, match="at least one"):
        envs.make_vector(0, id="test/Counting-v0")
    with envs.make_vector(2, 0, **COUNTING) as vector:
        with pytest.raises(ValueError, match="3 seeds for 2 envs"):
            vector.reset([1, 2, 3])
        with pytest.raises(ValueError, match="first reset"):
            vector.reset([1, 2], mask=np.array([True, False]))
        vector.reset([1, 2])
        with pytest.raises(ValueError, match="nothing to reset"):
            vector.reset([1, 2], mask=np.array([False, False]))
        with pytest.raises(ValueError, match="actions of shape"):
            vector.step(np.zeros((1, 1)))


def test_an_error_in_a_worker_reaches_the_caller():
    with pytest.raises(ValueError, match="no such env"):
        envs.make_vector(2, 2, id="worldmodel/Nothing-v0")
