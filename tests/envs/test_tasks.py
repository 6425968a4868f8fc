"""The built-in tasks: bounded returns, starts, goals, and that each can be done."""

import math

import gymnasium
import numpy as np
import pytest

import envs

TASKS = ["CartpoleSwingup", "PendulumSwingup", "Reacher", "TwoRoom", "Pusher"]
GOAL_TASKS = TASKS[2:]


def make(name, **options):
    return gymnasium.make(f"worldmodel/{name}-v0", **options)


def episode(env, policy, seed=0, **options):
    """The return and the last info of one episode under `policy(task)`."""
    _, info = env.reset(seed=seed, options=options or None)
    total, done = 0.0, False
    while not done:
        _, reward, terminated, done, info = env.step(policy(env.unwrapped).astype(np.float32))
        assert 0 <= reward <= 4 and not terminated
        total += reward
    return total, info


def hold(task):
    return np.zeros(task.action_space.shape)


@pytest.mark.parametrize("name", TASKS)
def test_an_episode_is_250_steps_at_25_hz_and_returns_at_most_1000(name):
    env = make(name)
    assert env.spec.max_episode_steps == 250 and env.unwrapped.dt == pytest.approx(1 / 25)
    rng = np.random.default_rng(0)
    total, _ = episode(env, lambda task: rng.uniform(-1, 1, task.action_space.shape))
    assert 0 <= total <= 1000
    observation, _ = env.reset(seed=1)
    assert env.observation_space.contains(observation)


@pytest.mark.parametrize("name", TASKS)
def test_each_task_shows_something_that_moves(name):
    env = envs.make(f"worldmodel/{name}-v0")
    before = env.reset(seed=0, options={"broad": True})[0]["image"]
    for _ in range(5):
        after = env.step(np.ones(env.action_space.shape, np.float32))[0]["image"]
    assert len(np.unique(before.reshape(-1, 3), axis=0)) >= 3  # more than a background
    assert (before != after).any(-1).mean() > 0.005  # twenty pixels of 64 x 64
    env.close()


@pytest.mark.parametrize("name", TASKS)
def test_broad_starts_cover_the_state_space_and_plain_ones_are_at_rest(name):
    env = make(name)
    plain, broad = [], []
    for seed in range(30):
        env.reset(seed=seed)
        plain.append(np.concatenate([env.unwrapped.data.qpos, env.unwrapped.data.qvel]))
        env.reset(seed=seed, options={"broad": True})
        broad.append(np.concatenate([env.unwrapped.data.qpos, env.unwrapped.data.qvel]))
    speeds = env.unwrapped.model.nv
    assert np.abs(np.array(plain)[:, -speeds:]).max() < 0.2
    assert np.array(broad)[:, -speeds].std() > 0.3


@pytest.mark.parametrize("name", TASKS)
def test_a_start_can_be_placed_exactly(name):
    env = make(name)
    env.reset(seed=0, options={"broad": True})
    for _ in range(5):
        env.step(env.action_space.sample())
    data = env.unwrapped.data
    state = np.concatenate([data.qpos, data.qvel])
    env.reset(seed=1, options={"state": state})
    np.testing.assert_array_equal(np.concatenate([data.qpos, data.qvel]), state)
    env.reset(seed=1, options={"state": state[: env.unwrapped.model.nq]})
    assert not data.qvel.any()
    with pytest.raises(ValueError, match="reset option 'state' has shape"):
        env.reset(options={"state": np.zeros(17)})


@pytest.mark.parametrize("name", GOAL_TASKS)
def test_no_plain_start_is_solved_already(name):
    env = make(name)
    assert not any(env.reset(seed=seed)[1]["success"] for seed in range(100))


@pytest.mark.parametrize("name", GOAL_TASKS)
def test_goals_can_be_placed_and_left_out_of_the_picture(name):
    def frame(goal, **kwargs):
        env = envs.make(f"worldmodel/{name}-v0", kwargs=kwargs, image_size=32)
        shown, _ = env.reset(seed=0, options={"goal": goal})
        assert np.allclose(env.unwrapped.goal, goal)
        env.close()
        return shown["image"]

    one, other = (0.1, 0.15), (-0.1, -0.15)
    assert (frame(one) != frame(other)).any()
    np.testing.assert_array_equal(frame(one, render_goal=False), frame(other, render_goal=False))


def test_random_actions_swing_no_cartpole_up():
    env, rng = make("CartpoleSwingup"), np.random.default_rng(0)
    returns = [episode(env, lambda task: rng.uniform(-1, 1, 1), seed)[0] for seed in range(20)]
    assert 30 < np.mean(returns) < 150
    assert episode(env, hold)[0] < 1


def test_an_upright_cartpole_earns_four_a_step_and_less_while_it_moves_or_is_pushed():
    env = make("CartpoleSwingup")
    env.reset(seed=0, options={"state": np.zeros(4)})
    assert env.step(np.zeros(1, np.float32))[1] == pytest.approx(4, abs=1e-3)
    env.reset(seed=0, options={"state": np.zeros(4)})
    assert env.step(np.ones(1, np.float32))[1] < 3.5
    env.reset(seed=0, options={"state": np.array([0, 0, 0, 5.0])})
    assert env.step(np.zeros(1, np.float32))[1] < 3
    env.reset(seed=0, options={"state": np.array([1.5, 0, 0, 0])})
    assert env.step(np.zeros(1, np.float32))[1] < 3.5


def test_the_picture_shows_the_state_that_is_told_with_it():
    """An arm that turns fast is drawn where it is after the last physics step, not one step before."""
    env = envs.make("worldmodel/Reacher-v0")
    goal = np.array([0.1, 0.1])
    env.reset(seed=0, options={"state": np.array([0, 1.0, 20.0, 0]), "goal": goal})
    shown, *_ = env.step(np.zeros(2, np.float32))
    state = np.concatenate([env.unwrapped.data.qpos, env.unwrapped.data.qvel])
    again, _ = env.reset(options={"state": state, "goal": goal})
    np.testing.assert_array_equal(again["image"], shown["image"])
    env.close()


def pump(task):
    """Energy pumping, then a linear controller near the top (Astrom and Furuta 2000)."""
    angle, speed = math.remainder(task.data.qpos.item(), 2 * math.pi), task.data.qvel.item()
    if abs(angle) < 0.5:
        return np.clip([(-12 * angle - 2 * speed) / 1.5], -1, 1)
    energy = 0.125 * speed**2 + 4.905 * (math.cos(angle) - 1)
    return np.array([1.0 if (speed >= 0) == (energy < 0) else -1.0])


def reach(task):
    shoulder, both = task.data.qpos[0], task.data.qpos.sum()
    jacobian = 0.12 * np.array(
        [[-math.sin(shoulder) - math.sin(both), -math.sin(both)], [math.cos(shoulder) + math.cos(both), math.cos(both)]]
    )
    return np.clip((8 * jacobian.T @ task._to_goal() - 0.02 * task.data.qvel) / 0.05, -1, 1)


def through_the_door(task):
    place, goal = task.data.qpos, task.goal
    if place[0] * goal[0] > 0 and abs(place[0]) > 0.12:
        target = goal
    elif abs(place[1] - 0.4) > 0.1:
        target = np.array([math.copysign(0.25, place[0]), 0.4])
    else:
        target = np.array([math.copysign(0.3, goal[0]), 0.4])
    return np.clip(6 * (target - place), -1, 1)


def push(task):
    ball, block = task.data.qpos[:2], task.data.qpos[2:4]
    way = task.goal - block
    left = np.linalg.norm(way)
    if left < 0.05:
        return np.zeros(2)
    way = way / left
    along = (ball - block) @ way
    aside = ball - block - along * way
    if along < -0.15 and np.linalg.norm(aside) < 0.06:  # behind it: push
        return np.clip(way * min(1, 4 * left) - 4 * aside, -1, 1)
    if along > -0.2 and np.linalg.norm(aside) < 0.3:  # in front of it: around
        around = aside / (np.linalg.norm(aside) + 1e-6)
        return np.clip(4 * (block + 0.4 * around - 0.1 * way - ball) - 0.8 * way, -1, 1)
    return np.clip(6 * (block - 0.3 * way - ball), -1, 1)


@pytest.mark.parametrize(
    ("name", "expert", "bar"),
    [
        ("PendulumSwingup", pump, 650),
        ("Reacher", reach, 650),
        ("TwoRoom", through_the_door, 750),
        ("Pusher", push, 700),
    ],
)
def test_a_scripted_expert_does_each_task(name, expert, bar):
    env = make(name)
    results = [episode(env, expert, seed) for seed in range(5)]
    assert min(total for total, _ in results) > bar
    assert all(info.get("success", True) for _, info in results)


def test_a_task_draws_itself_for_gymnasium():
    env = make("Pusher", render_mode="rgb_array")
    env.reset(seed=0)
    assert env.render().shape == (256, 256, 3)
    env.close()
