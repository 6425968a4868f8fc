"""Two rooms: drive a ball through the door to a goal in the other room."""

from __future__ import annotations

import math

import numpy as np

from envs.tasks.task import GoalTask, closeness

SUCCESS = 0.1  # metres between ball and goal
DOOR = (0.0, 0.4)  # its middle; 0.4 m wide, in the wall x = 0
_MARGIN = 1.0  # metres to go where the reward has fallen to a tenth


class TwoRoom(GoalTask):
    """A ball in two rooms of 1 x 2 m; the plane is [-1, 1] x [-1, 1], the wall is x = 0.

    Reward: 1 within 10 cm of the goal, falling smoothly with the way that is left, through the door where it is in
    between, to 0.1 at 1 m. `info["success"]`: within 10 cm. Two actions in [-1, 1]: the velocity to drive at, in m/s,
    reached with a time constant of 0.1 s. Starts at rest in one room with the goal in the other; broad starts draw ball
    and goal from anywhere, and a velocity. Observation: place, velocity, goal.
    """

    asset = "two_room.xml"

    def _place(self, rng: np.random.Generator, broad: bool) -> None:
        sides = rng.choice([-1, 1], size=2) if broad else rng.permutation([-1, 1])
        self.data.qpos[:] = sides[0] * rng.uniform(0.15, 0.9), rng.uniform(-0.9, 0.9)
        self.goal[:] = sides[1] * rng.uniform(0.2, 0.85), rng.uniform(-0.85, 0.85)
        if broad:
            self.data.qvel[:] = rng.uniform(-1, 1, size=2)

    def distance_to_go(self) -> float:
        """Metres from ball to goal, through the door where they are in different rooms."""
        x, y = self.data.qpos.tolist()
        goal_x, goal_y = self.goal.tolist()
        if x * goal_x >= 0:
            return math.hypot(goal_x - x, goal_y - y)
        return math.hypot(DOOR[0] - x, DOOR[1] - y) + math.hypot(goal_x - DOOR[0], goal_y - DOOR[1])

    def _reward(self) -> float:
        return closeness(self.distance_to_go() - SUCCESS, _MARGIN)

    def _observation(self) -> np.ndarray:
        return np.concatenate([self.data.qpos, self.data.qvel, self.goal], dtype=np.float32)

    def _solve(self) -> None:
        self.data.qpos[:] = self.goal

    def _success(self) -> bool:
        return self.distance_to_go() <= SUCCESS
