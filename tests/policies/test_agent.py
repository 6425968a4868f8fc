"""The agent in an env: its belief follows the frames and actions, rows are apart, actions are legal, wrong input is named."""

from __future__ import annotations

import counting_env  # noqa: F401  registers the envs whose frames show the step and the action
import numpy as np
import pytest
import torch

import envs
from policies.agent import ActorPolicy, Agent, BeliefPolicy
from policies.policy import Policy
from policies.rollout import rollout
from policies.video import open_loop_schedule
from policies.view import model_view, observed
from worldmodel import Interface

MODEL = dict(
    latent_dim=8, width=32, layers=2, heads=2, kv_heads=1, window=4, ensemble=2, head_width=32, channels=(8, 8, 8),
    feature_width=32, open_loop=3, decoder_frames=4,
)  # fmt: skip
PLANNER = dict(name="mppi", samples=16, iterations=2, horizon=4, elites=4, temperature=1.0, proposals=3, std_max=1.0,
               std_min=0.05, budget_ms=None)  # fmt: skip


def agent_for(interface: Interface) -> Agent:
    torch.manual_seed(0)
    agent = Agent.new(interface, {"model": MODEL, "behavior": {"width": 32}, "planner": PLANNER})
    agent.model.eval()
    agent.model.transition.heads.last.data.normal_(std=0.1)
    return agent


class Scripted(BeliefPolicy):
    """Acts by a fixed list and keeps every belief it had."""

    def __init__(self, actions, **options):
        super().__init__(**options)
        self.actions, self.beliefs = iter(actions), []

    def choose(self):
        self.beliefs.append(self.memory.belief.clone())
        return torch.as_tensor(next(self.actions))


@pytest.mark.parametrize("explore", [{}, {"noise": 0.3, "bursts": 0.5}], ids=["as it chooses", "exploring"])
def test_the_belief_while_acting_is_the_belief_of_the_recorded_episode(explore):
    vector = envs.make_vector(1, id="worldmodel/CartpoleSwingup-v0", image_size=32, max_episode_steps=9)
    agent = agent_for(Interface(**vector.interface))
    actions = np.random.default_rng(0).uniform(-1, 1, (9, 1, 1)).astype(np.float32)
    policy = Scripted(actions, agent=agent, **explore)
    (episode,) = rollout(policy, vector, [3])
    assert np.array_equal(episode["action"], actions[:, 0]) == (not explore)
    _, beliefs, _, _ = observed(agent.model, episode)
    acted = torch.stack(policy.beliefs, 1)[0]
    # bfloat16 convolutions of one frame and of ten may round apart
    assert torch.allclose(acted, beliefs[0, :9], atol=0.1)
    assert (acted[1:] - acted[:-1]).abs().amax(-1).min() > 0
    vector.close()


@pytest.mark.parametrize("name", ["actor", "planner"])
@pytest.mark.parametrize("env", ["worldmodel/Reacher-v0", "Acrobot-v1", "counting_env:test/TwoCamera-v0"])
def test_actions_are_legal_in_every_kind_of_env(name, env):
    vector = envs.make_vector(2, id=env, image_size=32)
    agent = agent_for(Interface(**vector.interface))
    policy = agent.policy(name, seed=1)
    assert isinstance(policy, Policy)
    observation, _ = vector.reset([0, 1])
    for step in range(3):
        action = policy.act(observation)
        assert action.shape == (2, agent.interface.action_dim) and np.abs(action).max() <= 1
        if agent.interface.discrete:
            assert ((action == 0) | (action == 1)).all() and (action.sum(-1) == 1).all()
        observation = vector.step(action)[0]
        policy.reset(observation, np.array([step == 1, False]))
    vector.close()


def test_a_new_episode_in_one_row_leaves_the_other_as_it_was():
    interface = Interface(cameras={"image": (32, 32, 3)}, action_dim=2)
    agent = agent_for(interface)
    frames = np.random.default_rng(0).integers(0, 256, (6, 2, 32, 32, 3), dtype=np.uint8)
    broken, whole, fresh = (agent.policy("actor") for _ in range(3))
    for t in range(6):
        if t == 3:
            broken.reset({"image": frames[t]}, np.array([True, False]))
        mixed, one = broken.act({"image": frames[t]}), whole.act({"image": frames[t]})
        assert np.allclose(mixed[1], one[1], atol=1e-5)
        if t >= 3:
            assert np.allclose(mixed[0], fresh.act({"image": frames[t]})[0], atol=1e-5)


def test_the_same_seed_plans_the_same_and_another_does_not():
    agent = agent_for(Interface(cameras={"image": (32, 32, 3)}, action_dim=2))
    frame = {"image": np.zeros((1, 32, 32, 3), np.uint8)}
    first, second, other = (agent.policy("planner", seed=seed).act(frame) for seed in (0, 0, 1))
    assert np.array_equal(first, second) and not np.array_equal(first, other)


def test_plans_are_shorter_where_a_critic_values_what_follows():
    agent, open_ended = agent_for(Interface(cameras={"image": (32, 32, 3)}, action_dim=2)), PLANNER | {"horizon": None}
    towards = {"name": "goal_image", "image": None}
    assert agent.policy("planner", planner=open_ended).planner.horizon == 5
    assert agent.policy("planner", planner=open_ended, objective=towards).planner.horizon == 24
    assert agent.policy("planner", planner=PLANNER, objective=towards).planner.horizon == PLANNER["horizon"]


def test_input_that_the_model_was_not_made_for_is_named():
    agent = agent_for(Interface(cameras={"image": (32, 32, 3)}, state_dim=3, action_dim=2))
    with pytest.raises(ValueError, match=r"'image' of shape \(32, 32, 3\).*got \(16, 16, 3\)"):
        agent.policy("actor").act({"image": np.zeros((1, 16, 16, 3), np.uint8), "state": np.zeros((1, 3), np.float32)})
    with pytest.raises(ValueError, match="'state'.*only"):
        agent.policy("actor").act({"image": np.zeros((1, 32, 32, 3), np.uint8)})
    with pytest.raises(ValueError, match="checkpoint=<folder>"):
        ActorPolicy(agent=None)


def test_the_dream_in_a_video_sees_no_frame_after_its_start():
    vector = envs.make_vector(1, id="worldmodel/CartpoleSwingup-v0", image_size=32, max_episode_steps=20)
    agent = agent_for(Interface(**vector.interface))
    (episode,) = rollout(agent.policy("actor"), vector, [0])
    schedule = open_loop_schedule(21, context=5, horizon=6)
    before = model_view(agent.model, episode, schedule)
    dreamt = np.flatnonzero(schedule[:11] > 0)
    changed = episode | {"image": episode["image"].copy()}
    changed["image"][dreamt] = 255 - changed["image"][dreamt]
    after = model_view(agent.model, changed, schedule)
    # other convolutions of the batch stay the same, so what is dreamt is the same to the bit
    assert np.array_equal(before.dream["image"][:11], after.dream["image"][:11])
    assert not np.array_equal(before.reconstruction["image"][dreamt], after.reconstruction["image"][dreamt])
    assert before.dream["image"].shape == episode["image"].shape and before.reward.shape == (20,)
    vector.close()
