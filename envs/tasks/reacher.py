"""Reacher: bring the tip of a two-link arm onto a disk, and keep it there."""

from __future__ import annotations

import math

import numpy as np

from envs.tasks.task import GoalTask, closeness

RADIUS = 0.035  # metres, of the disk
_LINK = 0.12  # metres, of each of the two
_APART = 0.1  # metres between tip and disk at a start: none is solved already
_SHOULDER = 0.2  # metres outside the disk where the reward has fallen to a tenth


class Reacher(GoalTask):
    """The Control Suite's `reacher` with a reward that has a slope.

    Reward: 1 while the tip is on the disk, falling smoothly with its distance from the disk's edge to 0.1 at 20 cm. The
    suite's reward is 0 everywhere outside the disk: with the few thousand steps that two CPU cores collect in minutes
    there would be almost nothing to learn from. `info["success"]`: the tip is on the disk. Two actions in [-1, 1]: the
    torques at shoulder and wrist. Every start draws any pose of the arm, at rest, and a place for the disk within reach
    but 10 cm away; broad starts draw it anywhere within reach, and velocities of standard deviation 4 rad/s.
    Observation: cosines and sines of shoulder and wrist, their velocities, tip to disk, disk.
    """

    asset = "reacher.xml"

    def _place(self, rng: np.random.Generator, broad: bool) -> None:
        if broad:
            self.data.qvel[:] = rng.normal(0, 4, size=2)
        while True:
            self.data.qpos[:] = rng.uniform(-math.pi, math.pi), rng.uniform(-2.7, 2.7)
            angle, distance = rng.uniform(-math.pi, math.pi), rng.uniform(0.06, 0.21)
            self.goal[:] = distance * math.cos(angle), distance * math.sin(angle)
            if broad or math.hypot(*self._to_goal()) >= _APART:
                return

    def _to_goal(self) -> tuple[float, float]:
        """From the tip to the disk's centre, in metres, from the joint angles as they are now."""
        shoulder, wrist = self.data.qpos.tolist()
        goal_x, goal_y = self.goal.tolist()
        x = _LINK * (math.cos(shoulder) + math.cos(shoulder + wrist))
        y = _LINK * (math.sin(shoulder) + math.sin(shoulder + wrist))
        return goal_x - x, goal_y - y

    def _reward(self) -> float:
        return closeness(math.hypot(*self._to_goal()) - RADIUS, _SHOULDER)

    def _observation(self) -> np.ndarray:
        cosines, sines = np.cos(self.data.qpos), np.sin(self.data.qpos)
        goal = self.goal
        return np.concatenate([cosines, sines, self.data.qvel, self._to_goal(), goal], dtype=np.float32)

    def _solve(self) -> None:
        """Inverse kinematics of two links of equal length, the wrist bent to the side where it was."""
        x, y = self.goal.tolist()
        bend = math.copysign(2 * math.acos(min(math.hypot(x, y) / (2 * _LINK), 1.0)), self.data.qpos[1].item())
        self.data.qpos[:] = math.atan2(y, x) - bend / 2, bend

    def _success(self) -> bool:
        return math.hypot(*self._to_goal()) <= RADIUS
