"""Lambda-returns, actor and critic: against hand-written loops, and on a problem with a known answer."""

from __future__ import annotations

import math
from types import MethodType, SimpleNamespace

import pytest
import torch

from policies.actor_critic import Actor, ActorCritic, ActorCriticConfig, ReducedMLP, mlp
from worldmodel import Interface, ModelConfig, WorldModel
from worldmodel.kernels.lambda_return import lambda_return
from worldmodel.transition import Prediction


def by_hand(rewards, continues, values, discount, trace):
    """The recursion of the lambda-return as n-step returns, written out."""
    out = []
    for t in range(len(rewards)):
        total = 0.0
        for n in range(1, len(rewards) - t + 1):  # n-step return from t
            n_step, alive = 0.0, 1.0
            for k in range(n):
                n_step += alive * rewards[t + k]
                alive *= discount * continues[t + k]
            n_step += alive * values[t + n]
            last = n == len(rewards) - t
            share = trace ** (n - 1) if last else (1 - trace) * trace ** (n - 1)
            total += share * n_step
        out.append(total)
    return out


@pytest.mark.parametrize("trace", [0.0, 0.5, 0.95, 1.0])
@pytest.mark.parametrize(
    "ends", [[1, 1, 1, 1, 1], [1, 0, 1, 1, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 0], [1, 0.3, 1, 0.9, 1]]
)
def test_lambda_return_equals_the_mixture_of_n_step_returns(trace, ends):
    g = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(1, 5, generator=g), torch.randn(1, 6, generator=g)
    continues = torch.tensor([ends], dtype=torch.float32)
    expected = by_hand(rewards[0].tolist(), ends, values[0].tolist(), 0.9, trace)
    assert torch.allclose(lambda_return(rewards, continues, values, 0.9, trace)[0], torch.tensor(expected), atol=1e-5)


def test_nothing_after_an_episodes_end_reaches_its_return():
    rewards, values = torch.tensor([[1.0, 2.0, 100.0]]), torch.full((1, 4), 50.0)
    continues = torch.tensor([[1.0, 0.0, 1.0]])
    assert torch.allclose(lambda_return(rewards, continues, values, 1.0, 1.0), torch.tensor([[3.0, 2.0, 150.0]]))


def test_lambda_return_has_the_right_gradients():
    inputs = [
        torch.randn(2, 4, dtype=torch.float64),
        torch.rand(2, 4, dtype=torch.float64),
        torch.randn(2, 5, dtype=torch.float64),
    ]
    inputs = [x.requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(lambda r, c, v: lambda_return(r, c, v, 0.9, 0.8), inputs)


def test_actions_stay_in_bounds_and_discrete_ones_are_one_hot_with_a_gradient():
    torch.manual_seed(0)
    features = 100 * torch.randn(50, 6)
    action, _ = Actor(6, 3, False, 16)(features, torch.randn(50, 3))
    assert action.abs().max() <= 1
    actor = Actor(6, 3, True, 16)
    action, entropy = actor(features, torch.randn(50, 3))
    assert torch.allclose(action.detach().sum(-1), torch.ones(50))
    assert torch.allclose(action.detach().amax(-1), torch.ones(50))
    (action * torch.randn(50, 3)).sum().backward()
    assert actor.net[0].weight.grad.abs().sum() > 0
    assert (entropy >= 0).all()


def test_the_entropy_is_that_of_the_squashed_distribution():
    """Its mean over draws against the integral of -p log p of the squashed Gaussian, up to the constant left out."""
    torch.manual_seed(0)
    actor = Actor(3, 1, False, 16).double()
    features = torch.randn(1, 3, dtype=torch.float64).expand(200_000, 3)
    mean, spread = actor.net(features[:1]).chunk(2, dim=-1)
    squashed = torch.distributions.TransformedDistribution(
        torch.distributions.Normal(mean[0], torch.nn.functional.softplus(spread[0] - 0.5) + 0.05),
        torch.distributions.TanhTransform(),
    )
    action = torch.linspace(-1, 1, 20_001, dtype=torch.float64)[1:-1]
    log_density = squashed.log_prob(action)
    expected = -(log_density.exp() * log_density).sum() * (action[1] - action[0])
    constant = 0.5 * math.log(2 * math.pi * math.e)
    _, entropy = actor(features, torch.randn(200_000, 1, dtype=torch.float64))
    assert abs(entropy.mean() + constant - expected) < 0.01


def test_one_trajectory_with_a_huge_gradient_does_not_decide_the_update():
    behavior = ActorCritic(4, 2, False, ActorCriticConfig(width=8, horizon=5, action_clip=0.5))
    gradient = torch.tensor([[3.0, 4.0], [3e5, -4e5], [0.0, 0.0], [0.3, 0.0]]) / (4 * 5)
    expected = torch.tensor([[0.3, 0.4], [0.3, -0.4], [0.0, 0.0], [0.3, 0.0]]) / (4 * 5)
    torch.testing.assert_close(behavior._clip_rows(gradient), expected)


class Walk:
    """Transition of a point that an action moves and whose reward is highest at 0: the model's part that is known."""

    reward_scale = torch.ones(())

    def __call__(self, belief, latent, action):
        moved = latent + 0.5 * action[:, None, :1]
        return Prediction(moved, moved[None], -moved[:, 0, 0].square(), torch.full((len(latent),), 10.0))


def test_actor_learns_to_go_to_the_reward_in_imagination():
    torch.manual_seed(0)
    interface = Interface(cameras={"image": (16, 16, 3)}, action_dim=1)
    model = WorldModel(interface, ModelConfig(latent_dim=1, width=16, layers=1, heads=2, kv_heads=1, window=2, ensemble=1,
                                              head_width=8, channels=(8, 8, 8), feature_width=8))  # fmt: skip
    model.eval().requires_grad_(False)
    real = SimpleNamespace(transition=Walk(), belief=model.belief, inputs=model.inputs, features=model.features)
    real.step = MethodType(WorldModel.step, real)
    behavior = ActorCritic(model.feature_dim, 1, False, ActorCriticConfig(width=32, horizon=6, learning_rate=3e-3))
    behavior.set_reward_scale(1.0)
    optimizer = torch.optim.Adam(behavior.parameters(), lr=3e-3)
    for _ in range(150):
        latents = torch.randn(64, 1, 1, 1) * 2
        beliefs, cache = model.observe_window(latents, torch.zeros(64, 1, 1))
        losses = behavior(real, model.belief.remember(cache, latents, beliefs))
        optimizer.zero_grad()
        (losses["actor_loss"] + losses["critic_loss"]).backward()
        optimizer.step()
        behavior.update_target()
    latents = torch.linspace(-2, 2, 9).view(9, 1, 1, 1)
    beliefs, _ = model.observe_window(latents, torch.zeros(9, 1, 1))
    action, _ = behavior.actor(model.features(beliefs[:, 0], latents[:, 0]))
    wanted = -latents[:, 0, 0]
    assert (action[wanted.abs() > 0.9].sign() == wanted[wanted.abs() > 0.9].sign()).all()
    value = behavior.value(model.features(beliefs[:, 0], latents[:, 0]))
    assert value[4] > value[0] + 1 and value[4] > value[-1] + 1  # the middle is worth more than the edges


def test_the_average_actor_soon_forgets_where_it_began_and_then_follows_slowly():
    behavior = ActorCritic(4, 1, False, ActorCriticConfig(width=8, average_rate=0.005))
    with torch.no_grad():
        for parameter in behavior.average.parameters():
            parameter.fill_(100.0)
    for _ in range(60):
        behavior.update_target()
    far = max((a - b).abs().max() for a, b in zip(behavior.average.parameters(), behavior.actor.parameters()))
    assert far < 1e-3 * 100  # at the rate of .005 alone, 74 of the 100 would be left
    behavior.updates.fill_(100_000)
    with torch.no_grad():
        behavior.average.net[0].bias.fill_(1.0)
        behavior.actor.net[0].bias.zero_()
    behavior.update_target()
    torch.testing.assert_close(behavior.average.net[0].bias, torch.full((8,), 0.995))


def test_a_reduced_network_is_the_float32_one_up_to_the_rounding_of_its_hidden_layers():
    torch.manual_seed(0)
    reduced, exact = ReducedMLP(48, 64, 3), mlp(48, 64, 3)
    exact.load_state_dict(reduced.state_dict())
    x = torch.randn(500, 48)
    given, expected = reduced(x), exact(x)
    assert given.dtype == torch.float32
    assert (given - expected).norm() / expected.norm() < 0.01
    for module in (reduced, exact):
        module(x).square().mean().backward()
    for own, other in zip(reduced.parameters(), exact.parameters(), strict=True):
        assert own.grad.dtype == torch.float32 and (own.grad - other.grad).norm() < 0.03 * other.grad.norm()
