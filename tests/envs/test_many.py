"""Several tasks as one env: what is drawn, padded and shown, and that pictures and states are of the episode's task."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

import envs
from envs.privileged import state_of

NAMES = ["CartpoleSwingup", "Reacher", "Tabletop"]


@pytest.fixture(scope="module")
def many():
    env = envs.make("worldmodel/Many-v0", kwargs={"tasks": NAMES}, observation="both")
    yield env
    env.close()


def test_every_task_is_drawn_and_the_same_seed_draws_the_same(many):
    drawn = [many.reset(seed=seed)[1]["task"] for seed in range(30)]
    assert set(drawn) == set(NAMES)
    assert drawn == [many.reset(seed=seed)[1]["task"] for seed in range(30)]


def places(several, which: int) -> np.ndarray:
    """Where the state of one of several envs stands among all: every env's positions come before all velocities."""
    states = [state_of(env) for env in several]
    speeds = [state.length - state.positions for state in states]
    position = sum(state.positions for state in states[:which])
    velocity = sum(state.positions for state in states) + sum(speeds[:which])
    return np.r_[position : position + states[which].positions, velocity : velocity + speeds[which]]


def test_an_episode_is_the_tasks_own(many):
    """The rewards, pictures, states and successes of the task alone, for the actions that it takes of the padded ones."""
    seed = next(seed for seed in range(30) if many.reset(seed=seed)[1]["task"] == "Reacher")
    observation, info = many.reset(seed=seed)
    assert many.action_space.shape == (2,) and many.interface["action_dim"] == 2
    assert observation["state"].tolist() == [0, 1, 0, 1, 1]
    alone = envs.make("worldmodel/Reacher-v0")
    raw = gymnasium.make("worldmodel/Many-v0", tasks=NAMES).unwrapped
    raw.reset(seed=seed)
    rng = np.random.default_rng(0)
    alone.reset(seed=0, options={"state": np.r_[raw.data.qpos, raw.data.qvel], "goal": raw.data.mocap_pos[0, :2]})
    own = np.isin(np.arange(many.interface["privileged_dim"]), places(many.unwrapped.envs, 1))
    for _ in range(5):
        action = rng.uniform(-1, 1, 2).astype(np.float32)
        mine, reward, *_, info = many.step(action)
        theirs, expected, *_, told = alone.step(action)
        assert reward == pytest.approx(expected) and np.array_equal(mine["image"], theirs["image"])
        assert info["success"] == told["success"] and info["task"] == "Reacher"
        assert np.array_equal(info["privileged"][own], told["privileged"]) and not info["privileged"][~own].any()
    alone.close()
    raw.close()


def test_what_has_fewer_actions_takes_the_first(many):
    seed = next(seed for seed in range(30) if many.reset(seed=seed)[1]["task"] == "CartpoleSwingup")
    after = []
    for second in (-1.0, 1.0):
        observation, _ = many.reset(seed=seed)
        assert observation["state"].tolist() == [1, 0, 0, 1, 0]
        after.append(many.step(np.array([0.5, second], np.float32))[4]["privileged"])
    assert np.array_equal(*after) and np.count_nonzero(after[0])


def test_a_task_can_be_held_out():
    """It keeps its token and its actions' place; episodes are of the others, or of it alone."""
    without = envs.make("worldmodel/Many-v0", kwargs={"tasks": NAMES, "drawn": NAMES[:2]})
    alone = envs.make("worldmodel/Many-v0", kwargs={"tasks": NAMES, "drawn": ["Tabletop"]})
    assert without.interface == alone.interface
    assert {without.reset(seed=seed)[1]["task"] for seed in range(20)} == set(NAMES[:2])
    assert {alone.reset(seed=seed)[1]["task"] for seed in range(5)} == {"Tabletop"}
    without.close()
    alone.close()


@pytest.mark.parametrize(
    "kwargs",
    [{"tasks": ["Walker"]}, {"tasks": []}, {"tasks": NAMES, "drawn": ["Pusher"]}, {"task_kwargs": {"Walker": {}}}],
)
def test_unknown_tasks_are_told_with_the_known_ones(kwargs):
    with pytest.raises(ValueError, match="Reacher"):
        envs.make("worldmodel/Many-v0", kwargs=kwargs)
