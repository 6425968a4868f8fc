"""Actor and critic, trained on imagined trajectories with gradients through the transition."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.averaging import follow
from worldmodel.compilation import Compiled
from worldmodel.distributed import mean_over_processes
from worldmodel.imagination import Trajectory, imagine
from worldmodel.kernels.lambda_return import lambda_return
from worldmodel.precision import reduced_precision
from worldmodel.trainer import OptimizerConfig
from worldmodel.transformer import Memory

EPSILON = torch.finfo(torch.float32).eps
LOG_2 = math.log(2)


@dataclass(frozen=True)
class ActorCriticConfig:
    """See configs/behavior/actor_critic.yaml, where each key is documented."""

    width: int = 192
    horizon: int = 15
    starts: int = 256
    discount: float = 0.98
    trace: float = 0.95
    entropy: float = 1e-3
    learning_rate: float = 1e-3
    final_rate: float = 0.2
    clip: float = 1.0
    action_clip: float = 1.0
    target_rate: float = 0.05
    average_rate: float = 0.005
    disagreement_penalty: float = 0.0

    def optimizer(self) -> OptimizerConfig:
        """Of actor and critic together."""
        return OptimizerConfig(
            self.learning_rate, warmup=1, final_rate=self.final_rate, weight_decay=0.0, clip=self.clip
        )


def mlp(features: int, width: int, out: int) -> nn.Sequential:
    """Two hidden layers, normalised."""
    layers = [nn.Linear(features, width), nn.LayerNorm(width), nn.SiLU()]
    layers += [nn.Linear(width, width), nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, out)]
    return nn.Sequential(*layers)


class ReducedMLP(nn.Sequential):
    """`mlp` whose hidden layers multiply in bfloat16 where it is native. The last is float32: the critic is trained towards
    what it says itself, and would follow its own rounding."""

    def __init__(self, features: int, width: int, out: int):
        super().__init__(*mlp(features, width, out))

    def forward(self, x: Tensor) -> Tensor:
        """`x [..., F]` to `[..., out]`."""
        *hidden, last = self
        with reduced_precision(x.device):
            for layer in hidden:
                x = layer(x)
        return last(x.to(last.weight.dtype))


class Actor(nn.Module):
    """Features to a distribution over actions: a squashed Gaussian, or one-hot choices with straight-through
    gradients (Bengio et al. 2013) where the env is discrete."""

    def __init__(self, features: int, action_dim: int, discrete: bool, width: int):
        super().__init__()
        self.discrete = discrete
        self.net = ReducedMLP(features, width, action_dim if discrete else 2 * action_dim)

    def forward(self, features: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Actions `[R, A]` for `features [R, F]`, and the distribution's entropy `[R]`, by the one draw, up to a constant.

        Args:
            noise: standard normal numbers `[R, A]` that the draw is made from; zeros, as None, give the mode.
        """
        out = self.net(features)
        if self.discrete:
            # One percent of uniform keeps every choice alive (Hafner et al. 2023).
            probability = 0.99 * out.softmax(-1) + 0.01 / out.shape[-1]
            entropy = -(probability * probability.log()).sum(-1)
            preference = probability.log()
            if noise is not None:  # the largest of log-probabilities plus Gumbel noise is a draw (Gumbel 1954)
                uniform = torch.special.ndtr(noise).clamp(EPSILON, 1 - EPSILON)
                preference = preference - uniform.log().neg().log()
            action = F.one_hot(preference.argmax(-1), out.shape[-1]).to(out.dtype)
            return action + probability - probability.detach(), entropy
        mean, spread = out.chunk(2, dim=-1)
        std = F.softplus(spread - 0.5) + 0.05
        if noise is not None:
            mean = mean + std * noise
        # The logarithm of the derivative of tanh, in a form that does not overflow (Haarnoja et al. 2018, appendix C):
        # where nothing else decides, it keeps actions away from their bounds.
        squash = 2 * (LOG_2 - mean - F.softplus(-2 * mean))
        return mean.tanh(), (std.log() + squash).mean(-1)


class ActorCritic(nn.Module):
    """The behaviour of one world model: actor, critic, the critic's slow copy and the scale of returns. What acts outside
    imagination is `average`, the moving average of the actor's weights (Polyak & Juditsky 1992)."""

    LOSSES = ("actor_loss", "critic_loss")  # what `forward` returns to be minimised

    def __init__(self, features: int, action_dim: int, discrete: bool, config: ActorCriticConfig):
        super().__init__()
        self.config, self.action_dim = config, action_dim
        self.compiled: tuple[Compiled, Compiled] | None = None
        self.reward: Callable[[Trajectory], Tensor] | None = None  # another than the model's: [R, H], of the order of 1
        self.actor = Actor(features, action_dim, discrete, config.width)
        self.critic = ReducedMLP(features, config.width, 1)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.average = copy.deepcopy(self.actor).requires_grad_(False)
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))
        # The critic works in units of a tenth of the value of one standard deviation of reward for ever, so that its
        # targets are of the order of one whatever the env's rewards are.
        self.register_buffer("value_unit", torch.ones(()))
        self.register_buffer("return_range", torch.zeros(()))

    def set_reward_scale(self, reward_std: float) -> None:
        """Fix the unit of the critic from the standard deviation of rewards."""
        self.value_unit.fill_(reward_std / (1 - self.config.discount) / 10)

    def value(self, features: Tensor, slow: bool = False) -> Tensor:
        """Discounted return `[...]` from `features [..., F]`, in the env's units."""
        critic = self.target if slow else self.critic
        return critic(features).squeeze(-1) * self.value_unit

    def forward(self, model, memory: Memory, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Losses of actor and critic on trajectories imagined from `memory`.

        The actor's gradient flows through actions, transition and critic (Hafner et al. 2020, eq. 7); the model's
        parameters must not require gradients.

        Returns:
            scalars: `actor_loss`, `critic_loss` (carry gradients), `imagined_return`, `value`, `entropy`, `saturation`.
        """
        config, entropies = self.config, []

        draw, step = self.compiled or (partial(self.draw, model), model.step)

        def policy(belief: Tensor, latent: Tensor) -> Tensor:
            noise = torch.randn(len(belief), self.action_dim, generator=generator, device=belief.device)
            action, entropy = draw(belief, latent, noise)
            entropies.append(entropy)
            if action.requires_grad:
                action.register_hook(self._clip_rows)
            return action

        dream = imagine(model, memory, policy, config.horizon, step=step)
        features = model.features(dream.beliefs, dream.latents)
        values = self.value(features, slow=True)
        rewards, unit = dream.rewards, model.transition.reward_scale
        if self.reward is not None:
            rewards, unit = self.reward(dream), 1.0
        if config.disagreement_penalty:
            rewards = rewards - config.disagreement_penalty * unit * dream.disagreement
        returns = lambda_return(rewards, dream.continues, values, config.discount, config.trace)
        # A step counts as far as the episode is still alive there.
        alive = torch.cat([torch.ones_like(dream.continues[:, :1]), dream.continues[:, :-1]], 1).cumprod(1).detach()

        scale = self._update_range(returns.detach())
        entropy = torch.stack(entropies, 1)
        actor_loss = -(alive * (returns / scale + config.entropy * entropy)).mean()
        predicted = self.critic(features[:, :-1].detach()).squeeze(-1)
        critic_loss = (alive * (predicted - returns.detach() / self.value_unit).square()).mean()
        return {
            "actor_loss": actor_loss,
            "critic_loss": critic_loss,
            "imagined_return": returns.detach()[:, 0].mean(),
            "value": values.detach().mean(),
            "entropy": entropy.detach().mean(),
            "saturation": (dream.actions.detach().abs() > 0.95).float().mean(),
        }

    def _clip_rows(self, gradient: Tensor) -> Tensor:
        """Gradients `[R, A]` of the mean loss with respect to one step's actions, each row's norm at most `action_clip`
        for a row by itself: where episodes end, a few rows' gradients are thousands of times the others'."""
        limit = self.config.action_clip / (len(gradient) * self.config.horizon)
        return gradient * (limit / gradient.norm(dim=-1, keepdim=True).clamp_min(limit))

    def act(self, model, belief: Tensor, latent: Tensor, noise: Tensor | None = None) -> Tensor:
        """What to do outside imagination: actions `[R, A]` of the averaged actor, its mode without noise."""
        return self.average(model.features(belief, latent), noise)[0]

    def draw(self, model, belief: Tensor, latent: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The actor's actions `[R, A]` and entropies `[R]` for beliefs and latents: see `Actor`."""
        return self.actor(model.features(belief, latent), noise)

    def compile_steps(self, model) -> None:
        """From now on, imagine in `model` by compiled steps."""
        self.compiled = Compiled(partial(self.draw, model)), Compiled(model.step)

    @torch.no_grad()
    def _update_range(self, returns: Tensor) -> Tensor:
        """Moving range of the 5th to 95th percentile of returns, at least one value unit (Hafner et al. 2023, eq. 11)."""
        low, high = torch.quantile(returns.flatten(), torch.tensor([0.05, 0.95], device=returns.device))
        spread = mean_over_processes(high - low)
        first = self.return_range == 0
        self.return_range.copy_(torch.where(first, spread, torch.lerp(self.return_range, spread, 0.01)))
        return torch.maximum(self.return_range, self.value_unit)

    def update_target(self) -> None:
        """Move the slow critic towards the critic, and the average towards the actor."""
        follow(self.target, self.critic, self.config.target_rate)
        self.updates += 1
        follow(self.average, self.actor, self.config.average_rate, int(self.updates))
