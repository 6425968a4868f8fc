"""Any Gymnasium env behind one contract: what is observed, how actions map, how steps and ends are counted."""

import sys

import gymnasium
import numpy as np
import pytest
from counting_env import LENGTH, CountingEnv, read_frame
from gymnasium import spaces

import envs
from envs.actions import ActionMap
from envs.adapter import Adapter
from envs.observations import as_picture, split, state_vector

CARTPOLE = "worldmodel/CartpoleSwingup-v0"


def act(value):
    return np.array([value], np.float32)


@pytest.mark.parametrize("repeat", [1, 3])
def test_an_action_leads_to_the_next_observation_and_to_its_own_reward(repeat):
    env = envs.make("test/Counting-v0", action_repeat=repeat)
    observation, info = env.reset(seed=0)
    assert read_frame(observation["image"])[:2] == (0, 0.0) and info["env_steps"] == 0
    for t, action in enumerate([0.5, -0.25, 1.0]):
        observation, reward, terminated, truncated, info = env.step(act(action))
        assert read_frame(observation["image"])[:2] == ((t + 1) * repeat, pytest.approx(action))
        np.testing.assert_allclose(observation["state"], [(t + 1) * repeat, action])
        assert reward == pytest.approx(repeat * action)
        assert info["env_steps"] == repeat and not terminated and not truncated


def test_repeats_stop_at_the_end_of_the_episode():
    env = envs.make("test/Counting-v0", action_repeat=5)
    env.reset(seed=0)
    results = [env.step(act(1.0)) for _ in range(3)]
    assert [info["env_steps"] for *_, info in results] == [5, 5, LENGTH - 10]
    assert [reward for _, reward, *_ in results] == [5, 5, LENGTH - 10]
    assert [terminated for _, _, terminated, _, _ in results] == [False, False, True]


def test_a_time_limit_truncates_in_env_steps_and_an_end_of_its_own_terminates():
    env = envs.make("test/Counting-v0", action_repeat=2, max_episode_steps=4)
    env.reset(seed=0)
    env.step(act(0.0))
    assert env.step(act(0.0))[2:4] == (False, True)
    env = envs.make("test/Counting-v0", max_episode_steps=100)
    env.reset(seed=0)
    ends = [env.step(act(0.0))[2:4] for _ in range(LENGTH)]
    assert ends == [(False, False)] * (LENGTH - 1) + [(True, False)]


def test_a_users_env_with_two_cameras_a_state_and_asymmetric_bounds_needs_nothing_of_ours():
    env = envs.make("counting_env:test/TwoCamera-v0", image_size=32, action_repeat=2)
    assert env.interface == {
        "cameras": {"image.front": (32, 32, 3), "image.wrist": (32, 32, 3)},
        "state_dim": 2,
        "action_dim": 2,
        "discrete": False,
        "privileged_dim": 0,
        "privileged_positions": 0,
        "fps": 10.0,
        "action_repeat": 2,
    }
    before, info = env.reset(seed=3)
    assert env.observation_space.contains(before) and "privileged" not in info
    after, reward, _, _, info = env.step(np.array([1.0, -1.0], np.float32))  # upper bound 3, lower bound 0
    np.testing.assert_allclose(after["state"] - before["state"], [6, 0], atol=1e-5)
    assert reward == 6 and info["success"] is False
    np.testing.assert_allclose(env.neutral_action, [-0.5, -1.0])
    still, *_ = env.step(env.neutral_action)
    np.testing.assert_allclose(still["state"], after["state"], atol=1e-5)


def test_cameras_choose_among_an_envs_own_pictures():
    env = envs.make("test/TwoCamera-v0", cameras=["wrist"], observation="pixels")
    assert env.interface["cameras"] == {"image": (64, 64, 3)} and env.interface["state_dim"] == 0
    with pytest.raises(ValueError, match="front, wrist"):
        envs.make("test/TwoCamera-v0", cameras=["back"])


@pytest.mark.parametrize(
    ("observation", "keys"),
    [("auto", ["image"]), ("pixels", ["image"]), ("state", ["state"]), ("both", ["image", "state"])],
)
def test_a_vector_env_is_rendered_unless_its_vector_is_asked_for(observation, keys):
    env = envs.make("Reacher-v5", observation=observation, image_size=16)
    shown, info = env.reset(seed=0)
    assert list(shown) == keys and env.observation_space.contains(shown)
    assert info["privileged"].shape == (env.interface["privileged_dim"],)
    env.close()


def test_named_mujoco_cameras_are_separate_pictures():
    env = envs.make(CARTPOLE, cameras=["view"], image_size=16)
    own = envs.make(CARTPOLE, image_size=16)
    np.testing.assert_array_equal(env.reset(seed=0)[0]["image"], own.reset(seed=0)[0]["image"])
    with pytest.raises(ValueError, match="env.cameras takes: view"):
        envs.make(CARTPOLE, cameras=["vieww"])


def test_a_module_in_the_working_directory_is_found(tmp_path, monkeypatch):
    (tmp_path / "env_of_mine.py").write_text(
        "import gymnasium, counting_env\ngymnasium.register('mine/Counting-v0', entry_point=counting_env.CountingEnv)\n"
    )
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    assert envs.make("env_of_mine:mine/Counting-v0").reset(seed=0)[0]["state"].tolist() == [0, 0]


def test_discrete_envs_without_mujoco_draw_themselves_and_take_one_hot_actions():
    pytest.importorskip("pygame", reason="Acrobot draws itself with pygame, which is not installed")
    env = envs.make("Acrobot-v1", image_size=24)
    assert env.interface["discrete"] and env.interface["action_dim"] == 3 and env.interface["privileged_dim"] == 0
    shown, info = env.reset(seed=0)
    assert shown["image"].shape == (24, 24, 3) and shown["image"].std() > 0 and "privileged" not in info
    same, other = gymnasium.make("Acrobot-v1"), envs.make("Acrobot-v1", observation="state")
    same.reset(seed=0)
    other.reset(seed=0)
    for choice in (2, 0, 1):
        expected, reward, *_ = same.step(choice)
        got, got_reward, *_ = other.step(np.eye(3, dtype=np.float32)[choice] * 2 - 1)
        np.testing.assert_allclose(got["state"], expected)
        assert got_reward == reward
    assert env.neutral_action.tolist() == [1, 0, 0]
    env.close()


def test_seeds_decide_everything():
    env = envs.make("Hopper-v5", image_size=16, action_repeat=2)

    def episode():
        shown, info = env.reset(seed=7)
        frames = [shown["image"]]
        for t in range(5):
            shown, reward, _, _, info = env.step(np.full(3, np.sin(t), np.float32))
            frames.append(shown["image"])
        return frames, reward, info["privileged"]

    (frames, reward, privileged), (again, reward_again, privileged_again) = episode(), episode()
    np.testing.assert_array_equal(frames, again)
    np.testing.assert_array_equal(privileged, privileged_again)
    assert reward == reward_again and frames[0].std() > 0
    env.close()


def test_privileged_state_is_positions_with_angles_as_cosine_and_sine_then_velocities():
    env = envs.make("HalfCheetah-v5", observation="state")
    _, info = env.reset(seed=0)
    data, count = env.unwrapped.data, env.interface["privileged_positions"]
    assert (count, env.interface["privileged_dim"]) == (2 + 2 * 7, 2 + 2 * 7 + 9)
    np.testing.assert_allclose(
        info["privileged"][:4], [*data.qpos[:2], np.cos(data.qpos[2]), np.sin(data.qpos[2])], rtol=1e-6
    )
    np.testing.assert_allclose(info["privileged"][count:], data.qvel, rtol=1e-6)
    ant = envs.make("Ant-v5", observation="state")
    _, info = ant.reset(seed=0)
    np.testing.assert_allclose(info["privileged"][:7], ant.unwrapped.data.qpos[:7], rtol=1e-6)  # place and quaternion
    assert ant.interface["privileged_positions"] == 7 + 2 * 8
    assert "privileged" not in envs.make("Ant-v5", observation="state", privileged_state=False).reset(seed=0)[1]


def test_frames_per_second_are_those_of_the_agent():
    assert envs.make("HalfCheetah-v5", observation="state", action_repeat=4).interface["fps"] == pytest.approx(5)
    assert envs.make(CARTPOLE, observation="state").interface["fps"] == pytest.approx(25)


def test_bounds_are_reached_exactly_and_excess_counts_as_the_bound():
    mapping = ActionMap(spaces.Box(np.array([-0.4, 1], np.float32), np.array([0.4, 5], np.float32)))
    np.testing.assert_array_equal(mapping(np.array([-1.0, 1.0])), np.array([-0.4, 5], np.float32))
    np.testing.assert_array_equal(mapping(np.array([0.0, -9.0])), np.array([0, 1], np.float32))
    np.testing.assert_array_equal(mapping.neutral, [0, -1])


def test_actions_that_mean_nothing_are_refused():
    env = envs.make("test/Counting-v0")
    env.reset(seed=0)
    with pytest.raises(ValueError, match="not a number"):
        env.step(act(np.nan))
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        env.step(np.zeros(2, np.float32))


@pytest.mark.parametrize(
    ("space", "error", "message"),
    [
        (spaces.Box(-np.inf, np.inf, (2,)), ValueError, "not finite"),
        (spaces.MultiDiscrete([2, 3]), TypeError, "MultiDiscrete"),
        (spaces.Box(0, 3, (2,), np.int32), TypeError, "Box of floats"),
    ],
)
def test_action_spaces_out_of_reach_are_named(space, error, message):
    with pytest.raises(error, match=message):
        ActionMap(space)


def test_observation_spaces_are_split_and_unsupported_parts_named():
    space = spaces.Dict(
        {
            "gripper": spaces.Discrete(3),
            "camera": spaces.Dict({"top": spaces.Box(0, 255, (8, 8, 3), np.uint8)}),
            "joints": spaces.Box(-1, 1, (2, 2)),
        }
    )
    pictures, vectors = split(space)
    assert [leaf.name for leaf in pictures] == ["camera.top"] and [leaf.name for leaf in vectors] == [
        "gripper",
        "joints",
    ]
    value = {"gripper": 1, "camera": {"top": np.zeros((8, 8, 3), np.uint8)}, "joints": np.array([[1, 2], [3, 4]]) / 10}
    np.testing.assert_allclose(state_vector(vectors, value), [0, 1, 0, 0.1, 0.2, 0.3, 0.4])
    with pytest.raises(TypeError, match="'order' is a Text space"):
        split(spaces.Dict({"order": spaces.Text(5)}))
    with pytest.raises(TypeError, match="'stack' is a picture of shape"):
        split(spaces.Dict({"stack": spaces.Box(0, 255, (8, 8, 4), np.uint8)}))


def test_pictures_of_any_layout_become_one_size():
    grey = np.zeros((4, 8, 1), np.uint8)
    grey[:, 4:] = 200
    np.testing.assert_array_equal(as_picture(grey, 2), np.array([[0, 200], [0, 200]])[..., None].repeat(3, -1))
    first = np.stack([np.full((6, 6), value, np.uint8) for value in (10, 20, 30)])
    np.testing.assert_array_equal(as_picture(first, 3), np.full((3, 3, 3), [10, 20, 30]))


def test_an_env_of_pictures_alone_has_no_vector_to_give():
    class Pictures(CountingEnv):
        def __init__(self):
            super().__init__()
            self.observation_space = self.observation_space["frame"]

        def _observe(self):
            return super()._observe()["frame"]

    env = Adapter(Pictures(), image_size=8)
    assert read_frame(env.reset(seed=0)[0]["image"])[0] == 0 and env.interface["state_dim"] == 0
    with pytest.raises(ValueError, match="use pixels"):
        Adapter(Pictures(), observation="both")


def test_an_env_that_cannot_be_drawn_gives_its_vector_and_says_so_when_pixels_are_asked_for():
    class Vector(CountingEnv):
        def __init__(self):
            super().__init__()
            self.observation_space = self.observation_space["count"]

        def _observe(self):
            return super()._observe()["count"]

    env = Adapter(Vector())
    assert list(env.reset(seed=0)[0]) == ["state"]
    with pytest.raises(ValueError, match="use state"):
        Adapter(Vector(), observation="pixels")
    with pytest.raises(ValueError, match="no picture"):
        env.render_frame(32)


def test_a_big_picture_for_videos_comes_from_any_env_that_can_be_drawn():
    env = envs.make(CARTPOLE, observation="state")
    env.reset(seed=0)
    assert env.render_frame(96).shape == (96, 96, 3)
    env = envs.make("test/TwoCamera-v0", image_size=16)
    env.reset(seed=0)
    assert env.render_frame(40).shape == (40, 40, 3)


def test_unknown_ids_and_options_name_near_misses():
    with pytest.raises(ValueError, match="HalfCheetah-v5"):
        envs.make("HalfCheeta-v5")
    with pytest.raises(ValueError, match="worldmodel/CartpoleSwingup-v0"):
        envs.make("worldmodel/CartPoleSwingUp")
    with pytest.raises(ModuleNotFoundError, match="run from the folder that holds no_such_module"):
        envs.make("no_such_module:Mine-v0")
    with pytest.raises(ValueError, match="env.observation='pixel' is not one of auto, pixels"):
        envs.make(CARTPOLE, observation="pixel")
    with pytest.raises(ValueError, match="env.quality"):
        envs.make(CARTPOLE, quality="best")
    with pytest.raises(ValueError, match="env.action_repeat=0"):
        envs.make(CARTPOLE, action_repeat=0)
