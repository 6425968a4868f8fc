"""Follows the scripted expert of the env: demonstrations to learn from, and what a learned policy is measured against."""

from __future__ import annotations

import math

import numpy as np

from policies.baselines import batch_size
from policies.policy import Observation
from policies.rollout import EXPERT
from worldmodel.interface import Interface


class ExpertPolicy:
    """Does what `expert_action` says: the env, made with `expert=True`, shows there what its scripted expert would do,
    who sees the simulator's state.

    With noise the expert still sees where the noise has led, and mends it: demonstrations then cover more than its own
    narrow way. What is executed is stored, noise and all; its mean is the expert's action, but for the cut at the bounds.
    The n-th episode that starts draws from a generator of its own, made from `seed` and n.

    Args:
        interface: of the env.
        seed: everything random follows from it.
        noise: standard deviation of the Gaussian noise on continuous actions, before they are cut off at [-1, 1].
        agent: not used; every policy is built with the same arguments.

    Raises:
        ValueError: a noise below 0, or noise where actions are discrete.
    """

    def __init__(self, interface: Interface, seed: int = 0, noise: float = 0.0, agent: object = None):
        if not 0.0 <= noise < math.inf:
            raise ValueError(f"policy.noise={noise!r}: must be a number of at least 0")
        if noise and interface.discrete:
            raise ValueError(f"policy.noise={noise!r}: this env's actions are discrete and take no noise")
        self.seed, self.noise = seed, noise
        self._generators: list[np.random.Generator] = []
        self._started = 0

    def reset(self, observation: Observation, mask: np.ndarray | None = None) -> None:
        """Start the masked rows' next episodes."""
        count = batch_size(observation)
        if len(self._generators) != count:
            self._generators, self._started = [np.random.default_rng(0)] * count, 0
        for row in range(count) if mask is None else np.flatnonzero(mask):
            self._generators[row] = np.random.default_rng([self.seed, self._started])
            self._started += 1

    def act(self, observation: Observation) -> np.ndarray:
        """Actions float32 `[B, A]` in [-1, 1].

        Raises:
            ValueError: the observations have no `expert_action`.
        """
        if EXPERT not in observation:
            raise ValueError(
                "policy=expert finds no expert_action in the observations: make the env with expert=True, as "
                "envs.make_vector(count, id=..., expert=True)"
            )
        actions = np.array(observation[EXPERT], np.float32)
        if self.noise:
            for row, generator in enumerate(self._generators):
                actions[row] += self.noise * generator.standard_normal(actions.shape[1])
        return actions.clip(-1.0, 1.0)
