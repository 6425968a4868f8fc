"""Rollouts pair times rightly, keep the order of the seeds, and store what was done."""

import gymnasium
import numpy as np
import pytest

import envs
from policies.rollout import film, rollout


class Clock(gymnasium.Env):
    """Shows the step number as the picture's brightness, and step number and last action as the state. Lasts 3 to 9
    steps, as its seed says."""

    observation_space = gymnasium.spaces.Dict(
        image=gymnasium.spaces.Box(0, 255, (16, 16, 3), np.uint8), state=gymnasium.spaces.Box(-99, 99, (2,), np.float32)
    )
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.length, self.now, self.last = 3 + (seed * 5) % 7, 0, 0.0
        return self._show(), {}

    def step(self, action):
        self.now, self.last = self.now + 1, float(action[0])
        over = self.now == self.length
        return self._show(), 10 * self.now + self.last, over, False, {"success": self.now == 2}

    def _show(self):
        return {
            "image": np.full((16, 16, 3), self.now, np.uint8),
            "state": np.array([self.now, self.last], np.float32),
        }


class Counter:
    """Acts 0, 0.1, 0.2, ... in every episode: it must be told of every start, and asked once a step."""

    def reset(self, observation, mask=None):
        count = len(observation["state"])
        mask = np.ones(count, bool) if mask is None else mask
        self.steps = np.where(mask, 0, getattr(self, "steps", np.zeros(count)))

    def act(self, observation):
        self.steps = self.steps + 1
        return ((self.steps - 1) / 10)[:, None].astype(np.float32)


class Constant:
    """Always the same action, in and out of bounds."""

    def __init__(self, action):
        self.action = np.asarray(action, np.float32)

    def reset(self, observation, mask=None):
        self.rows = len(next(iter(observation.values())))

    def act(self, observation):
        return np.tile(self.action, (self.rows, 1))


@pytest.fixture(scope="module")
def clock():
    gymnasium.register("test/Clock-v0", entry_point=f"{__name__}:Clock", max_episode_steps=8)
    env = envs.make_vector(3, id="test/Clock-v0", image_size=16)
    yield env
    env.close()


@pytest.fixture(scope="module")
def cartpole():
    env = envs.make_vector(1, id="worldmodel/CartpoleSwingup-v0", image_size=16)
    yield env
    env.close()


def test_an_action_leads_to_the_reward_of_its_row_and_the_observation_of_the_next(clock):
    for episode in rollout(Counter(), clock, [0, 1, 2, 3, 4]):
        steps = np.arange(len(episode["reward"]))
        np.testing.assert_array_equal(episode["image"][:, 0, 0, 0], np.arange(len(steps) + 1))
        np.testing.assert_allclose(episode["action"][:, 0], steps / 10, atol=1e-6)
        np.testing.assert_allclose(episode["state"][1:, 1], episode["action"][:, 0])
        np.testing.assert_allclose(episode["reward"], 10 * (steps + 1) + steps / 10, rtol=1e-6)
        assert episode["info"]["return"] == pytest.approx(episode["reward"].sum())


def test_episodes_come_in_the_order_of_their_seeds_whichever_ends_first(clock):
    episodes = list(rollout(Counter(), clock, [5, 0, 7, 6, 2, 1, 3]))
    assert [episode["info"]["seed"] for episode in episodes] == [5, 0, 7, 6, 2, 1, 3]
    lengths = [len(episode["reward"]) for episode in episodes]
    assert lengths == [min(8, 3 + (seed * 5) % 7) for seed in (5, 0, 7, 6, 2, 1, 3)]
    assert lengths[0] > lengths[1]


def test_what_is_rolled_out_does_not_hang_on_the_number_of_rows(clock):
    one = envs.make_vector(1, id="test/Clock-v0", image_size=16)
    alone, together = list(rollout(Counter(), one, range(6))), list(rollout(Counter(), clock, range(6)))
    one.close()
    for first, second in zip(alone, together, strict=True):
        assert first["info"] == second["info"]
        for key in ("image", "state", "action", "reward"):
            np.testing.assert_array_equal(first[key], second[key])


def test_terminated_and_truncated_stay_apart(clock):
    by_seed = {episode["info"]["seed"]: episode for episode in rollout(Counter(), clock, range(5))}
    ended, cut = by_seed[0], by_seed[4]  # 3 steps; 9 steps under the env's limit of 8
    assert (ended["terminated"], ended["truncated"]) == (True, False)
    assert (cut["terminated"], cut["truncated"]) == (False, True)


def test_max_steps_cuts_an_episode_but_never_hides_its_end(clock):
    ended, cut = rollout(Counter(), clock, [0, 1], max_steps=3)
    assert (ended["terminated"], ended["truncated"], len(ended["reward"])) == (True, False, 3)
    assert (cut["terminated"], cut["truncated"], len(cut["reward"])) == (False, True, 3)


def test_success_at_any_step_is_the_episodes(clock):
    early, late = rollout(Counter(), clock, [1]), rollout(Counter(), clock, [1], max_steps=1)
    assert next(early)["info"]["success"] is True
    assert next(late)["info"]["success"] is False


def test_actions_are_stored_as_the_env_executed_them(clock):
    (episode,) = rollout(Constant([7.0]), clock, [0])
    assert (episode["action"] == 1.0).all()
    assert (episode["state"][1:, 1] == 1.0).all()


def test_discrete_actions_are_stored_one_hot():
    acrobot = envs.make_vector(2, id="Acrobot-v1", observation="state")
    first, second = rollout(Constant([0.1, 0.7, 0.2]), acrobot, [0, 1], max_steps=4)
    acrobot.close()
    np.testing.assert_array_equal(first["action"], np.tile([0.0, 1.0, 0.0], (4, 1)))
    assert second["state"].shape == (5, 6)
    assert first["info"]["success"] is None


def test_a_policy_for_another_env_is_an_error_that_names_both_shapes(clock):
    with pytest.raises(ValueError, match=r"\(3, 2\).*\(3, 1\)"):
        next(rollout(Constant([0.0, 0.0]), clock, [0]))


def test_an_action_that_is_not_finite_is_an_error_that_names_seed_and_step(clock):
    with pytest.raises(FloatingPointError, match="step 0 .*seed 12"):
        next(rollout(Constant([np.nan]), clock, [12]))


def test_options_reach_the_episodes_that_they_are_meant_for(cartpole):
    def options(seed):
        return {"broad": True} if seed >= 2 else None

    episodes = list(rollout(Constant([0.0]), cartpole, range(8), options, max_steps=2))
    narrow = [episode["privileged"][0] for episode in episodes[:2]]
    broad = [episode["privileged"][0] for episode in episodes[2:]]
    assert np.std(broad, axis=0).max() > 5 * np.abs(narrow[0] - narrow[1]).max()


def test_a_real_env_gives_everything_that_its_interface_promises(cartpole):
    (episode,) = rollout(Constant([0.5]), cartpole, [3], max_steps=5, name="push")
    assert episode["image"].shape == (6, 16, 16, 3) and episode["image"].dtype == np.uint8
    assert episode["privileged"].shape == (6, cartpole.interface["privileged_dim"])
    assert episode["info"]["policy"] == "push" and episode["info"]["env_steps"] >= 5


def test_a_film_has_one_picture_per_observation(cartpole):
    episode, pictures = film(Constant([0.5]), cartpole, seed=3, size=48, max_steps=4)
    assert pictures.shape == (5, 48, 48, 3) and len(episode["image"]) == 5
    assert (pictures[0] != pictures[4]).any()
