"""Chunks of demonstrations never leave their episode, and normalisation statistics that don't fit are errors."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from vla_parts import HANG, INTERFACE, PUSH, make_store, statistics

from policies.vla.chunks import ChunkSampler, demonstrations
from policies.vla.statistics import KeyStatistics, Statistics, StatisticsError
from worldmodel import Interface

LENGTHS = (5, 9, 3, 7)


def test_chunks_hold_the_actions_after_their_observation_and_stop_at_the_episodes_end(tmp_path):
    with make_store(tmp_path / "data", LENGTHS) as store:
        sampler, seen = ChunkSampler(store, 4, 64, seed=0), set()
        assert sampler.episodes.tolist() == [0, 1, 2]  # the last is held out
        for _ in range(5):
            batch = sampler.sample()
            for row in range(64):
                episode, step = int(batch.episode[row]), int(batch.step[row])
                seen.add((episode, step))
                left = min(4, LENGTHS[episode] - step)
                assert batch.mask[row].tolist() == [1.0] * left + [0.0] * (4 - left)
                expected = np.zeros((4, 2), np.float32)
                expected[:left] = np.stack([np.full(left, episode / 10), (step + np.arange(left)) / 100], 1)
                np.testing.assert_allclose(batch.actions[row], expected, atol=1e-6)
                assert batch.observation["image"][row, 0, 0].tolist() == [episode, step, 0]
                np.testing.assert_array_equal(batch.observation["state"][row], store.read(episode)["state"][step])
        assert seen == {(episode, step) for episode in range(3) for step in range(LENGTHS[episode])}
        assert ChunkSampler(store, 4, 8, seed=0, split="held_out").sample().episode.unique().tolist() == [3]


def test_what_is_drawn_follows_from_the_seed(tmp_path):
    with make_store(tmp_path / "data") as store:
        first, same, other = (ChunkSampler(store, 4, 16, seed).sample() for seed in (0, 0, 1))
        assert first.step.tolist() == same.step.tolist() != other.step.tolist()


def test_failed_episodes_are_left_out_and_each_has_its_instruction(tmp_path):
    with make_store(tmp_path / "data", instructions=[PUSH, HANG, None, PUSH], failed=(1,)) as store:
        assert demonstrations(store) == [0, 2] and demonstrations(store, successful=False) == [0, 1, 2]
        with pytest.raises(ValueError, match=r'episode 2 of .* instruction="<a sentence>"'):
            ChunkSampler(store, 4, 8, seed=0)
        batch = ChunkSampler(store, 4, 64, seed=0, instruction="wait", successful=False).sample()
        assert batch.sentences == [[PUSH, HANG, "wait"][episode] for episode in batch.episode.tolist()]
    with make_store(tmp_path / "bad", failed=(0, 1, 2)) as store, pytest.raises(ValueError, match="successful=false"):
        demonstrations(store)


def test_statistics_are_those_of_the_actions_that_were_taken(tmp_path):
    with make_store(tmp_path / "data") as store:
        found = Statistics.of_store(store, [0, 1, 2])
        actions = np.concatenate([store.read(episode)["action"] for episode in range(3)])
        states = np.concatenate([store.read(episode)["state"] for episode in range(3)])
    np.testing.assert_allclose(found.action.mean, actions.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found.action.q99, np.quantile(actions.astype(float), 0.99, axis=0))
    np.testing.assert_allclose(found.state.std, states.std(0), rtol=1e-5)
    assert Statistics.from_dict(found.to_dict(), INTERFACE) == found


def test_a_dimension_that_never_moves_is_not_divided_by_zero():
    still = KeyStatistics.of(np.full((10, 1), 0.3))
    assert still.moments()[1].item() == 1.0
    low, high = still.range()
    assert low.item() == pytest.approx(-0.2) and high.item() == pytest.approx(0.8)


def change(path: str, value=None):
    """Statistics with one entry replaced, or taken out."""
    wrong = copy.deepcopy(statistics().to_dict())
    *above, last = path.split(".")
    place = wrong
    for key in above:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return wrong


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (None, "no normalisation statistics of '(action|state)'.*none.*worldmodel imitate"),
        (change("state"), "no normalisation statistics of 'state'"),
        (change("action.q99"), "no 'q99' in the normalisation statistics of 'action'"),
        (change("action.mean", [0.0] * 7), "action.mean of 7 numbers, and 'action' has 2"),
        (change("state.std", [1.0, float("nan"), 1.0]), "state.std that are not finite"),
        (change("gripper", {}), "statistics of 'gripper', and the policy reads"),
        (change("action.median", [0.0, 0.0]), r"unknown statistics \['median'\] of 'action'"),
    ],
)
def test_statistics_that_are_missing_or_do_not_fit_are_errors_that_name_the_key(wrong, message):
    with pytest.raises(StatisticsError, match=message):
        Statistics.from_dict(wrong, INTERFACE)


def test_statistics_of_a_state_that_the_policy_does_not_read_are_an_error():
    blind = Interface(cameras=INTERFACE.cameras, action_dim=2)
    with pytest.raises(StatisticsError, match="statistics of 'state', and the policy reads"):
        Statistics.from_dict(statistics().to_dict(), blind)
