"""Cartpole swing-up: bring a hanging pole up by moving its cart, and keep it there."""

from __future__ import annotations

import math

import numpy as np

from envs.tasks.task import Task, closeness


class CartpoleSwingup(Task):
    """The world and the smooth reward of the Control Suite's `cartpole-swingup`: upright x centred x gentle x slow.

    One action in [-1, 1]: the force on the cart, 10 N at most, too little to lift the pole in one go. Starts hanging
    still in the middle, within a little noise; broad starts draw the cart from +-1.5 m, any angle, and velocities of
    standard deviation 1.5 m/s and 4 rad/s. Observation: cart, cosine, sine, both velocities; the angle is 0 upright.
    A fresh random action at every control step returns about 90 of 1000.
    """

    asset = "cartpole.xml"

    def _place(self, rng: np.random.Generator, broad: bool) -> None:
        if broad:
            self.data.qpos[:] = rng.uniform(-1.5, 1.5), rng.uniform(-math.pi, math.pi)
            self.data.qvel[:] = rng.normal(0, 1.5), rng.normal(0, 4)
        else:
            self.data.qpos[:] = 0.01 * rng.normal(), math.pi + 0.01 * rng.normal()
            self.data.qvel[:] = 0.01 * rng.normal(size=2)

    def _reward(self) -> float:
        cart, angle = self.data.qpos.tolist()
        force = self.data.ctrl.item()
        upright = (1 + math.cos(angle)) / 2
        centred = (1 + closeness(abs(cart), margin=2)) / 2
        gentle = (4 + max(0.0, 1 - force * force)) / 5
        slow = (1 + closeness(abs(self.data.qvel[1].item()), margin=5)) / 2
        return upright * centred * gentle * slow

    def _observation(self) -> np.ndarray:
        cart, angle = self.data.qpos.tolist()
        return np.array([cart, math.cos(angle), math.sin(angle), *self.data.qvel.tolist()], np.float32)
