"""How far it is from one latent to another, learned from episodes without any labels."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from policies.actor_critic import mlp
from worldmodel.averaging import follow
from worldmodel.data import EpisodeStore
from worldmodel.data.split import train_episodes
from worldmodel.interface import SEMANTIC

ENCODED = 256  # frames encoded at once


@dataclass(frozen=True)
class GoalValueConfig:
    """See configs/goal_value/default.yaml, where each key is documented."""

    updates: int = 8000
    transitions: int = 1024
    width: int = 256
    discount: float = 0.99
    expectile: float = 0.95
    learning_rate: float = 1e-3
    target_rate: float = 0.05
    here: float = 0.1
    ahead: float = 0.3


class GoalValue(nn.Module):
    """Goal-conditioned implicit value learning on latents (the value function of HIQL, Park et al. 2023, eq. 4; Kostrikov
    et al. 2022 for the expectile).

    The value of a latent, given a goal's, is the discounted sum of a reward of -1 for each step until the goal is reached.
    It is learned by temporal differences, so that ways are stitched together from parts of many episodes, and by an
    expectile above one half, so that the better of the ways in the data counts. No action and no reward of the env enters.
    """

    def __init__(self, size: int, config: GoalValueConfig):
        super().__init__()
        self.config = config
        self.nets = nn.ModuleList([mlp(3 * size, config.width, 1) for _ in range(2)])
        self.slow = copy.deepcopy(self.nets).requires_grad_(False)

    def forward(self, here: Tensor, after: Tensor, goal: Tensor, reached: Tensor) -> dict[str, Tensor]:
        """The loss on transitions.

        Args:
            here, after, goal: latents `[B, N * D]` of a moment, of the next one, and of a goal.
            reached: `[B]`, 1 where the moment is the goal's own.

        Returns:
            scalars: `loss` (carries the gradient), `value`.
        """
        config, goes_on = self.config, 1 - reached
        with torch.no_grad():
            following = torch.stack([self._value(net, after, goal) for net in self.slow])
            target = goes_on * (config.discount * following.amin(0) - 1)
            advantage = target - torch.stack([self._value(net, here, goal) for net in self.slow]).mean(0)
            weight = torch.where(advantage > 0, config.expectile, 1 - config.expectile)
            target = goes_on * (config.discount * following - 1)  # each net follows its own slow copy
        values = torch.stack([self._value(net, here, goal) for net in self.nets])
        loss = (weight * ((target - values) / self._unit).square()).mean()
        return {"loss": loss, "value": values.detach().mean()}

    def distance(self, latents: Tensor, goals: Tensor) -> Tensor:
        """How many discounted steps latents `[..., N, D]` are from goals `[..., N, D]`, at least 0: `[...]`."""
        here, goal = torch.broadcast_tensors(latents, goals)
        here, goal = here.flatten(-2), goal.flatten(-2)
        return -torch.stack([self._value(net, here, goal) for net in self.nets]).mean(0)

    def update_target(self) -> None:
        """Move the slow nets towards the nets."""
        follow(self.slow, self.nets, self.config.target_rate)

    @property
    def _unit(self) -> float:
        """A tenth of the value of never arriving, so that the nets work with numbers of the order of one."""
        return 0.1 / (1 - self.config.discount)

    def _value(self, net: nn.Module, here: Tensor, goal: Tensor) -> Tensor:
        return -self._unit * nn.functional.softplus(net(torch.cat([here, goal, here - goal], -1)).squeeze(-1))


class LatentTransitions:
    """The latents of all frames of the training episodes, and draws of transitions with goals from them.

    Args:
        model: a `WorldModel`; each frame is encoded once.
        store: the episodes.
        frames: at most so many frames, of whole episodes drawn at random.
        seed: of that draw.
    """

    def __init__(self, model, store: EpisodeStore, frames: int = 400_000, seed: int = 0):
        episodes = np.random.default_rng(seed).permutation(train_episodes(store))
        lengths = store.lengths[episodes] + 1
        episodes = np.sort(episodes[: max(1, int(np.searchsorted(lengths.cumsum(), frames, side="right")))])
        self.device, keys = model.device, model.interface.observation_keys()
        features = store.features if model.semantics is not None else None
        if features is not None:
            keys = [*keys, SEMANTIC]
        latents, parts, waiting = [], {key: [] for key in keys}, 0
        for place, number in enumerate(episodes):
            episode = store.read(int(number))
            if features is not None:
                episode[SEMANTIC] = features.tokens(features.read(int(number)))
            for key in keys:
                parts[key].append(episode[key])
            waiting += len(episode[keys[0]])
            if waiting >= ENCODED or place == len(episodes) - 1:
                joined = {key: torch.as_tensor(np.concatenate(value)).to(self.device) for key, value in parts.items()}
                for i in range(0, waiting, ENCODED):
                    with torch.no_grad():
                        latents.append(model.encode({key: value[i : i + ENCODED] for key, value in joined.items()}))
                parts, waiting = {key: [] for key in keys}, 0
        self.latents = torch.cat(latents).flatten(1)
        counts = torch.as_tensor(store.lengths[episodes] + 1)
        ends = counts.cumsum(0) - 1
        self.last = ends.repeat_interleave(counts).to(self.device)  # of every frame, its episode's last one
        self.moments = torch.nonzero(torch.arange(len(self.last), device=self.device) < self.last).flatten()

    def sample(self, config: GoalValueConfig, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Arguments of `GoalValue.forward`: the goal of a moment is itself, a later frame of its episode, or any frame."""

        def uniform() -> Tensor:
            return torch.rand(config.transitions, generator=generator, device=self.device)

        moment = self.moments[(uniform() * len(self.moments)).long()]
        ahead = moment + 1 + (uniform() * (self.last[moment] - moment)).long()
        anywhere = (uniform() * len(self.latents)).long()
        kind = uniform()
        goal = torch.where(kind < config.here, moment, torch.where(kind < config.here + config.ahead, ahead, anywhere))
        reached = (goal == moment).float()
        return self.latents[moment], self.latents[moment + 1], self.latents[goal], reached
