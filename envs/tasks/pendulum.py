"""Pendulum swing-up: pump a pendulum up with a motor that is too weak to lift it, and keep it there."""

from __future__ import annotations

import math

import numpy as np

from envs.tasks.task import Task, closeness


class PendulumSwingup(Task):
    """The Control Suite's `pendulum-swingup` with a smooth reward and a stronger motor (1.5 N m against 4.9 to hold).

    Reward: upright, (1 + cos) / 2, times a factor between 1/2 and 1 for being slow. The suite's own reward is 1 within
    8 degrees of upright and 0 elsewhere, which random actions never see. One action in [-1, 1]: the torque. Starts
    hanging still, within a little noise; broad starts draw any angle and a velocity of standard deviation 4 rad/s.
    Observation: cosine, sine, velocity; the angle is 0 upright.
    """

    asset = "pendulum.xml"

    def _place(self, rng: np.random.Generator, broad: bool) -> None:
        if broad:
            self.data.qpos[:] = rng.uniform(-math.pi, math.pi)
            self.data.qvel[:] = rng.normal(0, 4)
        else:
            self.data.qpos[:] = math.pi + 0.05 * rng.normal()
            self.data.qvel[:] = 0.05 * rng.normal()

    def _reward(self) -> float:
        upright = (1 + math.cos(self.data.qpos.item())) / 2
        return upright * (1 + closeness(abs(self.data.qvel.item()), margin=5)) / 2

    def _observation(self) -> np.ndarray:
        angle = self.data.qpos.item()
        return np.array([math.cos(angle), math.sin(angle), self.data.qvel.item()], np.float32)
