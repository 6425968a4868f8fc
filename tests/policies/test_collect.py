"""Collecting stores every step it runs, no more than needed, and goes on where it stopped."""

import io
import itertools

import numpy as np
import pytest
from rich.console import Console

import envs
from policies.collect import collect, is_broad
from worldmodel.data import EpisodeStore
from worldmodel.interface import Interface
from worldmodel.progress import Progress


class Push:
    """A push that hangs on what is seen, so that episodes differ."""

    def reset(self, observation, mask=None):
        pass

    def act(self, observation):
        return (observation["image"].mean((1, 2, 3), keepdims=False)[:, None] / 127.5 - 1).astype(np.float32)


@pytest.fixture(scope="module")
def cartpole():
    env = envs.make_vector(3, id="worldmodel/CartpoleSwingup-v0", image_size=16)
    yield env
    env.close()


@pytest.fixture
def store(tmp_path, cartpole):
    return EpisodeStore.create(tmp_path / "data", Interface(**cartpole.interface), {})


def test_whole_episodes_are_added_until_there_are_enough_steps(cartpole, store):
    summary = collect(Push(), cartpole, store, 100, itertools.count(), max_steps=12)
    assert summary["steps"] == store.steps == sum(store.lengths)
    assert 100 <= store.steps < 100 + 12
    assert summary["episodes"] == len(store) == 9
    assert summary["env_steps"] == sum(info["env_steps"] for info in store.infos)
    assert summary["return_mean"] == pytest.approx(np.mean([info["return"] for info in store.infos]))


def test_every_seed_is_taken_once_and_in_order(cartpole, store):
    seeds = itertools.count(40)
    collect(Push(), cartpole, store, 50, seeds, max_steps=7)
    collect(Push(), cartpole, store, 50, seeds, max_steps=7)
    assert [info["seed"] for info in store.infos] == list(range(40, 40 + len(store)))


def test_a_collection_that_goes_on_gives_the_data_of_one_that_never_stopped(cartpole, store, tmp_path):
    other = EpisodeStore.create(tmp_path / "other", store.interface, {})
    collect(Push(), cartpole, store, 60, itertools.count(), max_steps=10, broad_fraction=0.5)
    for _ in range(2):
        collect(Push(), cartpole, other, 30, itertools.count(len(other)), max_steps=10, broad_fraction=0.5)
    assert len(store) == len(other) == 6
    for index in range(len(store)):
        first, second = store.read(index), other.read(index)
        for key in ("image", "action", "reward", "privileged"):
            np.testing.assert_array_equal(first[key], second[key])


def test_broad_starts_are_the_asked_share_and_hang_on_the_seed_alone():
    assert not any(is_broad(seed, 0.0) for seed in range(100))
    assert all(is_broad(seed, 1.0) for seed in range(100))
    assert 0.25 < np.mean([is_broad(seed, 0.3) for seed in range(1000)]) < 0.35
    assert [is_broad(seed, 0.3) for seed in range(50)] == [is_broad(seed, 0.3) for seed in range(50)]


def test_a_fraction_out_of_range_is_an_error(cartpole, store):
    with pytest.raises(ValueError, match="1.5"):
        collect(Push(), cartpole, store, 10, itertools.count(), broad_fraction=1.5)


def test_a_log_tells_how_far_the_collection_is(cartpole, store):
    log = io.StringIO()
    seconds = itertools.count()  # a clock that ticks a second whenever it is read
    progress = Progress(Console(file=log, width=120), clock=lambda: next(seconds))
    collect(Push(), cartpole, store, 60, itertools.count(), max_steps=10, progress=progress)
    lines = log.getvalue().splitlines()
    assert len(lines) > 1
    assert all(line.startswith("collect") and "/60 steps" in line and " left" in line for line in lines[:-1])
    assert lines[-1].startswith("collect  60 steps")
