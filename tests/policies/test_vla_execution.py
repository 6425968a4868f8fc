"""Chunks become actions: open loop, averaged as ACT does, and predicted in a thread while others run."""

from __future__ import annotations

import itertools
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from policies.policy import Policy
from policies.vla import ChunkPolicy, VLAAgent
from worldmodel import Interface

H = 8
INTERFACE = Interface(cameras={"image": (16, 16, 3)}, action_dim=2, fps=20.0)  # a control step of 50 ms


class Counting(VLAAgent):
    """Chunks that say which observation they are from, and which step of the chunk: `[observation, step] / 100`.

    Args:
        delay: seconds that a prediction takes; a list gives one after the other.
    """

    def __init__(self, delay: float = 0.0, interface: Interface = INTERFACE):
        model = SimpleNamespace(config=SimpleNamespace(chunk=H), device="cpu")
        super().__init__(model, None, interface, {})
        self.delay, self.asked, self.release = delay, [], None

    def predict(self, observation, sentences, generator=None):
        self.asked.append((observation["image"][:, 0, 0, 0].tolist(), sentences))
        if self.release is not None:
            self.release.wait()
        time.sleep(self.delay)
        chunks = np.zeros((len(sentences), H, 2), np.float32)
        chunks[:, :, 0] = observation["image"][:, 0, 0, :1] / 100
        chunks[:, :, 1] = np.arange(H) / 100
        return chunks


def see(*steps: int) -> dict:
    """Observations that show a number in each row."""
    image = np.zeros((len(steps), 16, 16, 3), np.uint8)
    image[...] = np.array(steps)[:, None, None, None]
    return {"image": image, "instruction": np.array(["go"] * len(steps))}


def run(policy, steps: int, pause: float = 0.0) -> np.ndarray:
    """The first actions of one row, times 100: `[steps, 2]`."""
    policy.reset(see(0))
    actions = []
    for step in range(steps):
        actions.append(policy.act(see(step))[0])
        time.sleep(pause)
    return np.round(100 * np.array(actions)).astype(int)


def test_some_steps_of_a_chunk_are_executed_before_the_next():
    policy = ChunkPolicy(agent=Counting(), n_action_steps=3)
    assert isinstance(policy, Policy)
    assert run(policy, 7).tolist() == [[0, 0], [0, 1], [0, 2], [3, 0], [3, 1], [3, 2], [6, 0]]
    assert policy.agent.asked == [([0], ["go"]), ([3], ["go"]), ([6], ["go"])]


def test_rows_start_anew_on_their_own():
    policy = ChunkPolicy(agent=Counting(), n_action_steps=4)
    policy.reset(see(0, 100))
    policy.act(see(0, 100)), policy.act(see(1, 101))
    policy.reset(see(2, 200), np.array([False, True]))
    actions = 100 * policy.act(see(2, 200))
    np.testing.assert_allclose(actions, [[0, 2], [200, 0]], atol=1e-4)
    assert policy.agent.asked[-1] == ([200], ["go"])
    policy.act(see(3, 201))
    np.testing.assert_allclose(100 * policy.act(see(4, 202)), [[4, 0], [200, 2]], atol=1e-4)


@pytest.mark.parametrize(("every", "m"), [(1, 0.01), (1, 0.5), (3, 0.2)])
def test_temporal_ensembling_is_acts_formula(every, m):
    policy = ChunkPolicy(agent=Counting(), n_action_steps=every, ensemble=m)
    policy.reset(see(0))
    for step in range(20):
        action = policy.act(see(step))[0] * 100
        begun = [b for b in range(0, step + 1, every) if step - b < H]  # of the chunks that speak of this step
        weights = np.exp(-m * np.arange(len(begun)))
        expected = [np.average(begun, weights=weights), np.average([step - b for b in begun], weights=weights)]
        np.testing.assert_allclose(action, expected, rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"ensemble": 0.1}])
def test_asynchronous_execution_of_an_instant_policy_is_synchronous_execution(options):
    actions = [
        run(ChunkPolicy(agent=Counting(), n_action_steps=3, asynchronous=asynchronous, wait=1.0, **options), 20)
        for asynchronous in (False, True)
    ]
    np.testing.assert_array_equal(*actions)


def test_a_slow_prediction_begins_early_and_skips_the_steps_that_went_by():
    policy = ChunkPolicy(agent=Counting(delay=0.12), n_action_steps=6, asynchronous=True, wait=0.5, real_time=True)
    actions = run(policy, 16)
    observed, step = actions.T
    assert (observed + step == np.arange(16)).all()  # whatever the chunk, its action is the one for this moment
    fresh = [int(first) for before, first in itertools.pairwise(observed) if first != before]
    assert fresh and policy.report()["late"] == 0
    assert all(step[np.argmax(observed == b)] >= 1 for b in fresh)  # predicted while others ran
    report = policy.report()
    assert 100 < report["latency_ms"] < 400 and report["longest_wait_ms"] <= 50
    policy.close()


def test_a_prediction_that_does_not_come_never_holds_up_the_loop():
    agent = Counting()
    policy = ChunkPolicy(agent=agent, n_action_steps=2, asynchronous=True, wait=0.2)
    policy.reset(see(0))
    agent.release = threading.Event()
    actions, longest = [], 0.0
    for step in range(12):
        began = time.perf_counter()
        actions.append(np.round(100 * policy.act(see(step))[0]).astype(int).tolist())
        longest = max(longest, time.perf_counter() - began)
    assert [a[1] for a in actions] == [0, 1, 2, 3, 4, 5, 6, 7, 7, 7, 7, 7]  # the rest of the old chunk, then its end
    assert longest < policy.control_step and policy.report()["late"] == 10
    agent.release.set()
    policy.close()
    assert np.round(100 * policy.act(see(12))[0]).astype(int).tolist() == [12, 0] or len(agent.asked) >= 2


def test_what_was_predicted_for_an_ended_episode_is_dropped():
    agent = Counting()
    policy = ChunkPolicy(agent=agent, n_action_steps=1, asynchronous=True, wait=0.0)
    policy.reset(see(0))
    policy.act(see(0))
    agent.delay = 0.05
    policy.act(see(1))  # begins a prediction from 1
    policy.reset(see(50))
    np.testing.assert_allclose(100 * policy.act(see(50))[0], [50, 0], atol=1e-4)
    policy.close()


def test_real_time_keeps_the_control_rate():
    policy = ChunkPolicy(agent=Counting(), n_action_steps=4, real_time=True)
    began = time.perf_counter()
    run(policy, 5)
    assert time.perf_counter() - began >= 4 * policy.control_step


def test_discrete_envs_get_one_hot_actions():
    discrete = Interface(cameras={"image": (16, 16, 3)}, action_dim=2, discrete=True)
    policy = ChunkPolicy(agent=Counting(interface=discrete), n_action_steps=8)
    assert run(policy, 3).tolist() == [[100, 0], [0, 100], [0, 100]]


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="chunks have 8 actions"):
        ChunkPolicy(agent=Counting(), n_action_steps=9)
    with pytest.raises(ValueError, match="share of a control step"):
        ChunkPolicy(agent=Counting(), wait=2.0)
    with pytest.raises(ValueError, match="checkpoint of worldmodel imitate"):
        ChunkPolicy(agent=None)
    policy = ChunkPolicy(agent=Counting())
    with pytest.raises(ValueError, match="call policy.reset"):
        policy.act(see(0))
    policy.reset(see(0))
    silent = see(0)
    del silent["instruction"]
    with pytest.raises(ValueError, match="env.instruction"):
        policy.act(silent)
    told = ChunkPolicy(agent=Counting(), instruction="stop")
    told.reset(silent)
    told.act(silent)
    assert told.agent.asked == [([0], ["stop"])]
