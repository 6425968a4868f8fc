"""Pusher: push a block to its place with a ball."""

from __future__ import annotations

import math

import numpy as np

from envs.tasks.task import GoalTask, closeness

SUCCESS = 0.1  # metres between the block's centre and its place
_TOUCHING = 0.25  # metres between the centres of ball and block, side by side
_BLOCK_MARGIN, _BALL_MARGIN = 0.7, 1.0  # metres where the two parts of the reward have fallen to a tenth
_BLOCK_SHARE = 0.8


class Pusher(GoalTask):
    """A ball, a block that slides with friction, and a place for the block, on a walled table of 2 x 2 m.

    Reward: 0.8 for the block's closeness to its place (1 within 10 cm, 0.1 of it at 0.8 m) and 0.2 for the ball's
    closeness to the block, without which random actions seldom move anything. `info["success"]`: the block within 10
    cm, however turned. Two actions in [-1, 1]: the velocity to drive the ball at, in m/s. Starts draw ball, block and
    place at rest, apart from each other; broad starts also draw the ball's velocity, and half of them put the ball
    beside the block. Observation: ball, block, the block's angle as cosine and sine, velocities of ball and block,
    place.
    """

    asset = "pusher.xml"

    def _place(self, rng: np.random.Generator, broad: bool) -> None:
        block = rng.uniform(-0.6, 0.6, size=2)
        goal = _drawn_apart(rng, 0.6, block, 0.0 if broad else 0.3)
        if broad and rng.random() < 0.5:
            angle = rng.uniform(-math.pi, math.pi)
            ball = block + rng.uniform(0.3, 0.4) * np.array([math.cos(angle), math.sin(angle)])
            ball = np.clip(ball, -0.9, 0.9)
        else:
            ball = _drawn_apart(rng, 0.9, block, 0.35)
        self.data.qpos[:] = [*ball, *block, rng.uniform(-math.pi, math.pi)]
        self.goal[:] = goal
        if broad:
            self.data.qvel[:2] = rng.uniform(-1, 1, size=2)

    def _distances(self) -> tuple[float, float]:
        """Metres from ball to block and from block to its place."""
        ball_x, ball_y, block_x, block_y, _ = self.data.qpos.tolist()
        goal_x, goal_y = self.goal.tolist()
        return math.hypot(block_x - ball_x, block_y - ball_y), math.hypot(goal_x - block_x, goal_y - block_y)

    def _reward(self) -> float:
        ball, block = self._distances()
        near = closeness(ball - _TOUCHING, _BALL_MARGIN)
        return _BLOCK_SHARE * closeness(block - SUCCESS, _BLOCK_MARGIN) + (1 - _BLOCK_SHARE) * near

    def _observation(self) -> np.ndarray:
        qpos, turn = self.data.qpos, self.data.qpos[4]
        turned = math.cos(turn), math.sin(turn)
        return np.concatenate([qpos[:4], turned, self.data.qvel, self.goal], dtype=np.float32)

    def _solve(self) -> None:
        """The block in its place, and the ball behind it, as after a straight push."""
        block, goal = self.data.qpos[2:4].copy(), self.goal.copy()
        way = (goal - block) / max(math.dist(goal, block), 1e-6)
        self.data.qpos[:4] = [*np.clip(goal - _TOUCHING * way, -0.9, 0.9), *goal]

    def _success(self) -> bool:
        return self._distances()[1] <= SUCCESS


def _drawn_apart(rng: np.random.Generator, reach: float, other: np.ndarray, distance: float) -> np.ndarray:
    """A point of [-reach, reach]^2 at least `distance` from `other`."""
    while True:
        point = rng.uniform(-reach, reach, size=2)
        if math.dist(point, other) >= distance:
            return point
