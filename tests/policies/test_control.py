"""The control experiment: actor, critic and planner with the true dynamics instead of a learned model. It tells whether
a failure is the model's."""

from __future__ import annotations

from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from true_cartpole import TrueCartpole, broad_states

import envs  # noqa: F401  registers the tasks
from policies.actor_critic import ActorCritic, ActorCriticConfig
from policies.planners import RewardObjective, build
from worldmodel.imagination import imagine

ENV = "worldmodel/CartpoleSwingup-v0"


def state_of(env) -> torch.Tensor:
    return torch.tensor(np.concatenate([env.unwrapped.data.qpos, env.unwrapped.data.qvel]), dtype=torch.float32)[None]


def test_the_differentiable_cartpole_moves_and_pays_as_the_simulated_one():
    env, model = gymnasium.make(ENV), TrueCartpole()
    for seed in range(5):
        env.reset(seed=seed, options={"broad": True})
        env.unwrapped.data.qpos[0] *= 0.3  # away from the rail's ends
        state = state_of(env)
        for action in np.random.default_rng(seed).uniform(-1, 1, (5, 1)).astype(np.float32):
            prediction = model(None, state[:, None], torch.as_tensor(action)[None])
            _, reward, *_ = env.step(action)
            after = state_of(env)
            assert torch.allclose(prediction.latent[0], after, atol=0.12)
            assert abs(prediction.reward.item() - reward) < 0.05
            state = after
    env.close()


def returns(act, seeds=range(20, 23)) -> float:
    """Mean return over episodes from the task's own starts, of actions that `act` gives for states `[1, 4]`."""
    env, total = gymnasium.make(ENV), 0.0
    for seed in seeds:
        env.reset(seed=seed)
        for _ in range(250):
            total += env.step(act(state_of(env)).numpy()[0])[1]
    env.close()
    return total / len(seeds)


@pytest.fixture(scope="module")
def trained():
    """An actor-critic after 200 updates in the true dynamics."""
    torch.manual_seed(0)
    model, generator = TrueCartpole(), torch.Generator().manual_seed(0)
    behavior = ActorCritic(model.feature_dim, 1, False, ActorCriticConfig(starts=96))
    behavior.set_reward_scale(1.0)
    optimizer = torch.optim.AdamW(behavior.parameters(), lr=1e-3, weight_decay=0.0)
    for _ in range(200):
        losses = behavior(model, model.memory(broad_states(96, generator)), generator)
        optimizer.zero_grad()
        (losses["actor_loss"] + losses["critic_loss"]).backward()
        torch.nn.utils.clip_grad_norm_(behavior.parameters(), 1.0)
        optimizer.step()
        behavior.update_target()
    return SimpleNamespace(model=model, behavior=behavior.requires_grad_(False))


def test_actor_and_critic_learn_to_swing_up_in_the_true_dynamics(trained):
    model, actor = trained.model, trained.behavior.actor
    assert returns(lambda state: actor(model.features(None, state[:, None]))[0]) > 700


def test_a_planner_with_the_true_dynamics_and_that_critic_is_at_least_as_good(trained):
    model, behavior = trained.model, trained.behavior
    planner = build("mppi", 1, samples=64, iterations=3, horizon=10, elites=12, temperature=1.0, proposals=8,
                    std_max=1.0, std_min=0.05)  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    objective = RewardObjective(
        behavior.config.discount, lambda belief, latent: behavior.value(model.features(belief, latent), slow=True)
    )

    def act(state):
        memory = model.memory(state)

        def score(actions):
            dream = imagine(model, memory, actions.flatten(0, 1), actions.shape[2], actions.shape[1])
            return objective(dream).view(actions.shape[:2])

        def propose(belief, latent):
            noise = torch.randn(len(latent), 1, generator=generator)
            return behavior.draw(model, belief, latent, noise)[0]

        proposals = imagine(model, memory, propose, 10, 8).actions[None]
        return planner.plan(score, 1, proposals=proposals, generator=generator).actions[:, 0]

    with torch.no_grad():
        assert returns(act, seeds=range(20, 21)) > 700
