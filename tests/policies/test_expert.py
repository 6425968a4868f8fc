"""The env's scripted expert as a policy: what it does, and what is kept of it."""

import itertools

import numpy as np
import pytest

import envs
from policies.baselines import HoldStillPolicy
from policies.collect import FAILURES, collect, next_seed
from policies.expert import ExpertPolicy
from policies.rollout import rollout
from worldmodel.data import EpisodeStore
from worldmodel.interface import Interface

TABLETOP = {"id": "worldmodel/Tabletop-v0", "image_size": 16, "expert": True, "kwargs": {"kinds": ["reach"]}}


@pytest.fixture(scope="module")
def tabletop():
    with envs.make_vector(2, **TABLETOP) as vector:
        yield vector


def expert(vector, **options):
    return ExpertPolicy(Interface(**vector.interface), **options)


def store_of(vector, folder):
    return EpisodeStore.create(folder, Interface(**vector.interface), {})


def episodes(vector, count=3, steps=60, **options):
    return list(rollout(expert(vector, **options), vector, range(count), max_steps=steps))


def test_it_does_what_is_asked_and_nothing_of_the_expert_is_in_the_episode(tabletop):
    for episode in episodes(tabletop):
        assert episode["info"]["success"] and episode["info"]["instruction"]
        assert episode.keys() == {"image", "privileged", "action", "reward", "terminated", "truncated", "info"}


def test_workers_give_the_actions_of_this_process(tabletop):
    with envs.make_vector(2, 2, **TABLETOP) as workers:
        for here, there in zip(episodes(tabletop, steps=12), episodes(workers, steps=12), strict=True):
            np.testing.assert_array_equal(here["action"], there["action"])


def test_the_action_with_its_noise_is_what_was_done(tabletop):
    plain, noisy, again = (episodes(tabletop, 1, 20, noise=noise, seed=3)[0] for noise in (0.0, 0.3, 0.3))
    np.testing.assert_array_equal(noisy["action"], again["action"])
    assert np.abs(noisy["action"] - plain["action"]).max() > 0.1 and np.abs(noisy["action"]).max() <= 1
    with envs.make_vector(1, **TABLETOP) as vector:
        vector.reset([0])
        for t, action in enumerate(noisy["action"]):
            observation, *_ = vector.step(action[None])
            np.testing.assert_array_equal(observation["image"][0], noisy["image"][t + 1])


def test_the_noise_of_an_episode_does_not_hang_on_how_many_run_beside_it(tabletop):
    with envs.make_vector(1, **TABLETOP) as alone:
        for one, other in zip(episodes(tabletop, 2, 8, noise=0.5), episodes(alone, 2, 8, noise=0.5), strict=True):
            np.testing.assert_array_equal(one["action"], other["action"])


def test_an_env_without_an_expert_says_which_have_one():
    with pytest.raises(ValueError, match=r"CartpoleSwingup-v0 has no scripted expert; worldmodel/Tabletop-v0 and"):
        envs.make("worldmodel/CartpoleSwingup-v0", image_size=16, expert=True)


def test_an_env_that_was_not_asked_shows_no_expert():
    with envs.make_vector(1, **{**TABLETOP, "expert": False}) as vector:
        observation, infos = vector.reset([0])
        assert "expert_action" not in observation and "expert_action" not in infos
        policy = expert(vector)
        policy.reset(observation)
        with pytest.raises(ValueError, match="expert=True"):
            policy.act(observation)


@pytest.mark.parametrize("noise", [-0.1, float("nan"), float("inf")])
def test_a_noise_out_of_range_is_an_error(tabletop, noise):
    with pytest.raises(ValueError, match="policy.noise"):
        expert(tabletop, noise=noise)


def test_failed_episodes_are_left_out_where_that_is_asked_for(tabletop, tmp_path):
    every, kept = store_of(tabletop, tmp_path / "every"), store_of(tabletop, tmp_path / "kept")
    options = {"steps": 120, "max_steps": 15}  # not all are done within 15 steps
    collect(expert(tabletop), tabletop, every, seeds=itertools.count(), **options)
    summary = collect(expert(tabletop), tabletop, kept, seeds=itertools.count(), successful_only=True, **options)
    assert not all(info["success"] for info in every.infos) and all(info["success"] for info in kept.infos)
    assert kept.steps >= 120 and summary["steps"] == kept.steps and summary["episodes"] == len(kept)
    assert summary["dropped"] > 0 and summary["env_steps"] > summary["steps"]
    assert summary["success_rate"] == len(kept) / (len(kept) + summary["dropped"])
    wins = [info["seed"] for info in every.infos if info["success"]]
    assert [info["seed"] for info in kept.infos][: len(wins)] == wins


def test_a_collection_that_goes_on_takes_no_seed_twice(tabletop, tmp_path):
    store = store_of(tabletop, tmp_path / "data")
    assert next_seed(store, 500, 100) == 500
    for _ in range(2):
        seeds = itertools.count(next_seed(store, 500, 100))
        collect(expert(tabletop), tabletop, store, 60, seeds, max_steps=15, successful_only=True)
    used = [info["seed"] for info in store.infos]
    assert len(set(used)) == len(used) and used == sorted(used) and used[-1] - used[0] >= len(used)
    assert next_seed(store, 500, 100) == used[-1] + 1 and next_seed(store, 600, 100) == 600


def test_a_policy_that_never_succeeds_is_not_waited_for(tabletop, tmp_path):
    still = HoldStillPolicy(Interface(**tabletop.interface))
    with pytest.raises(ValueError, match=f"{FAILURES} episodes in a row"):
        collect(still, tabletop, store_of(tabletop, tmp_path / "data"), 10, itertools.count(), max_steps=1,
                successful_only=True)  # fmt: skip


def test_an_env_that_never_tells_success_can_not_be_sorted_by_it(tmp_path):
    with envs.make_vector(1, id="worldmodel/CartpoleSwingup-v0", image_size=16) as cartpole:
        still = HoldStillPolicy(Interface(**cartpole.interface))
        with pytest.raises(ValueError, match="never says"):
            collect(still, cartpole, store_of(cartpole, tmp_path / "data"), 10, itertools.count(), max_steps=2,
                    successful_only=True)  # fmt: skip
