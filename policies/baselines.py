"""Policies that look at nothing: what every learned one has to beat, and the first explorers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from policies.policy import Observation
from worldmodel.interface import Interface

GENTLEST = 0.01  # of what a gentle episode's actions are multiplied by


class RandomPolicy:
    """Random actions, drawn anew or held for a while.

    Each row holds a value, redrawn with probability `switch` at every step, and adds noise to it. The n-th episode that
    starts draws from a generator of its own, made from `seed` and n: its actions do not depend on how many envs run
    beside it.

    Args:
        interface: of the env.
        seed: everything random follows from it.
        switch: probability, at each step, that the held action is redrawn; 1 makes every step independent.
        reach: it is drawn uniformly from [-reach, reach] and cut off at [-1, 1], so values above 1 push at full force
            more often. Continuous actions only.
        noise: standard deviation of what is added at every step, before the cut. Continuous actions only.
        gentle: share of the episodes whose actions are all multiplied by one number, drawn log-uniformly from
            [0.01, 1]: where full force ends an episode at once, only these see what comes later. Continuous actions only.
        agent: not used; every policy is built with the same arguments.

    Raises:
        ValueError: an option out of its range.
    """

    def __init__(
        self,
        interface: Interface,
        seed: int = 0,
        switch: float = 1.0,
        reach: float = 1.0,
        noise: float = 0.0,
        gentle: float = 0.0,
        agent: object = None,
    ):
        if not 0.0 <= switch <= 1.0:
            raise ValueError(f"policy.switch={switch!r}: must be a probability, from 0 to 1")
        if not 0.0 < reach < math.inf:
            raise ValueError(f"policy.reach={reach!r}: must be a number above 0")
        if not 0.0 <= noise < math.inf:
            raise ValueError(f"policy.noise={noise!r}: must be a number of at least 0")
        if not 0.0 <= gentle <= 1.0:
            raise ValueError(f"policy.gentle={gentle!r}: must be a share, from 0 to 1")
        self.action_dim, self.discrete = interface.action_dim, interface.discrete
        self.seed, self.switch, self.reach, self.noise, self.gentle = seed, switch, reach, noise, gentle
        self._generators: list[np.random.Generator] = []
        self._held = np.zeros((0, self.action_dim), np.float32)
        self._scale = np.ones((0, 1), np.float32)
        self._started = 0

    def reset(self, observation: Observation, mask: np.ndarray | None = None) -> None:
        """Start the masked rows' next episodes."""
        count = batch_size(observation)
        if len(self._generators) != count:
            self._generators = [np.random.default_rng(0)] * count
            self._held = np.zeros((count, self.action_dim), np.float32)
            self._scale = np.ones((count, 1), np.float32)
            self._started = 0
        for row in range(count) if mask is None else np.flatnonzero(mask):
            self._generators[row] = np.random.default_rng([self.seed, self._started])
            self._held[row] = self._draw(self._generators[row])
            self._scale[row] = self._draw_scale(self._generators[row])
            self._started += 1

    def act(self, observation: Observation) -> np.ndarray:
        """Actions float32 `[B, A]` in [-1, 1], one-hot rows where discrete."""
        if len(self._generators) != batch_size(observation):
            raise ValueError(
                f"{batch_size(observation)} observations for {len(self._generators)} rows: call policy.reset(observation) "
                "before the first act() and whenever the number of envs changes"
            )
        actions = np.empty_like(self._held)
        for row, generator in enumerate(self._generators):
            if generator.random() < self.switch:
                self._held[row] = self._draw(generator)
            actions[row] = self._held[row]
            if self.noise and not self.discrete:
                actions[row] += self.noise * generator.standard_normal(self.action_dim)
        return self._scale * actions.clip(-1.0, 1.0)

    def _draw_scale(self, generator: np.random.Generator) -> float:
        if self.discrete or not self.gentle or generator.random() >= self.gentle:
            return 1.0
        return GENTLEST ** generator.random()

    def _draw(self, generator: np.random.Generator) -> np.ndarray:
        if self.discrete:
            return np.eye(self.action_dim, dtype=np.float32)[generator.integers(self.action_dim)]
        return generator.uniform(-self.reach, self.reach, self.action_dim).clip(-1.0, 1.0)


class HoldStillPolicy:
    """The same neutral action for ever.

    Args:
        interface: of the env.
        neutral_action: A numbers in [-1, 1]; None takes zeros, and the first choice of a discrete env. Where an env's
            own bounds are asymmetric, its zero is not the zero of [-1, 1]: give it here.
        seed, agent: not used; every policy is built with the same arguments.

    Raises:
        ValueError: a neutral action of the wrong length, out of bounds, or not one-hot where discrete.
    """

    def __init__(
        self,
        interface: Interface,
        neutral_action: Sequence[float] | None = None,
        seed: int = 0,
        agent: object = None,
    ):
        if neutral_action is None:
            action = np.zeros(interface.action_dim, np.float32)
            action[0] = float(interface.discrete)
        else:
            action = np.asarray(neutral_action, np.float32)
        if action.shape != (interface.action_dim,) or not (np.abs(action) <= 1.0).all():
            raise ValueError(
                f"policy.neutral_action={neutral_action!r}: must be {interface.action_dim} numbers in [-1, 1] for this env"
            )
        if interface.discrete and sorted(action) != [0.0] * (interface.action_dim - 1) + [1.0]:
            raise ValueError(f"policy.neutral_action={neutral_action!r}: this env is discrete, give one 1 among zeros")
        self.action = action

    def reset(self, observation: Observation, mask: np.ndarray | None = None) -> None:
        """Nothing to forget."""

    def act(self, observation: Observation) -> np.ndarray:
        """Actions float32 `[B, A]`."""
        return np.tile(self.action, (batch_size(observation), 1))


def batch_size(observation: Observation) -> int:
    """B, from any array of the observation."""
    return len(next(iter(observation.values())))
