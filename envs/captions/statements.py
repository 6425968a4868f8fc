"""What can be said of a picture of a built-in task, and when it is true."""

from __future__ import annotations

import math
from collections.abc import Callable

from envs.captions.pole_statements import CARTPOLE, PENDULUM
from envs.captions.statement import Statement
from envs.tasks import pusher, reacher, two_room

TASKS = {
    "cartpole": "worldmodel/CartpoleSwingup-v0",
    "pendulum": "worldmodel/PendulumSwingup-v0",
    "reacher": "worldmodel/Reacher-v0",
    "two_room": "worldmodel/TwoRoom-v0",
    "pusher": "worldmodel/Pusher-v0",
}
NEAR = 0.1  # metres from the reacher's tip to the disk's edge
_BESIDE = 0.15  # metres, how much further left, right, up or down a block is than its place


def _to_disk(env) -> float:
    """Metres from the reacher's tip to the edge of the disk; 0 on it."""
    return max(math.hypot(*env._to_goal()) - reacher.RADIUS, 0.0)


def _ball(env) -> tuple[float, float]:
    return float(env.data.qpos[0]), float(env.data.qpos[1])


def _beside_place(axis: int, sign: int) -> Callable[[object], bool]:
    return lambda env: sign * (env.data.qpos[2 + axis] - env.goal[axis]) > _BESIDE


_REACHER = [
    Statement(
        "reacher",
        lambda env: True,
        (
            "an arm with two links",
            "a robot arm and a disk",
            "we see an arm and a disk",
            "here is a robot arm with two links",
        ),
        ("this is a reacher",),
    ),
    Statement(
        "reacher",
        lambda env: _to_disk(env) == 0.0,
        (
            "the tip of the arm is on the disk",
            "the arm touches the disk",
            "the arm has reached the target",
            "the tip touches the disk",
            "the disk is under the tip of the arm",
            "the arm meets the disk",
            "the target has been reached by the arm",
        ),
        ("the end of the arm lies over the disk", "the arm is at the disk"),
    ),
    Statement(
        "reacher",
        lambda env: _to_disk(env) <= NEAR,
        (
            "the tip of the arm is near the disk",
            "the arm is close to the target",
            "the tip stays close by the disk",
            "near the disk is the tip of the arm",
            "the disk is close to the arm",
        ),
        ("the end of the arm is not far from the disk",),
    ),
    Statement(
        "reacher",
        lambda env: _to_disk(env) > NEAR,
        (
            "the tip of the arm is far from the disk",
            "the arm is far from the target",
            "far from the disk is the tip of the arm",
            "the tip is a long way from the target",
            "the arm is not near the disk",
        ),
        ("the end of the arm is nowhere near the disk",),
    ),
    Statement(
        "reacher",
        lambda env: abs(env.data.qpos[1]) <= 0.5,
        ("the arm is stretched out", "the arm is straight", "the links form a line", "the two links are lined up"),
        ("both links point the same way",),
    ),
    Statement(
        "reacher",
        lambda env: abs(env.data.qpos[1]) >= 2.0,
        (
            "the arm is folded",
            "the arm is bent sharply",
            "the links are folded together",
            "one link lies against the other",
        ),
        ("the links lie on top of each other",),
    ),
]
_TWO_ROOM = [
    Statement(
        "two_room",
        lambda env: True,
        (
            "two rooms with a door",
            "a ball in a house of two rooms",
            "we see two rooms and a ball",
            "here is a house of two rooms",
        ),
        ("these are two rooms",),
    ),
    Statement(
        "two_room",
        lambda env: _ball(env)[0] < -0.1,
        (
            "the ball is in the left room",
            "the ball is left of the wall",
            "left of the wall is the ball",
            "in the left room one sees the ball",
            "the room on the left holds the ball",
        ),
        ("the left room has the ball",),
    ),
    Statement(
        "two_room",
        lambda env: _ball(env)[0] > 0.1,
        (
            "the ball is in the right room",
            "the ball is right of the wall",
            "right of the wall is the ball",
            "in the right room one sees the ball",
            "the room on the right holds the ball",
        ),
        ("the right room has the ball",),
    ),
    Statement(
        "two_room",
        lambda env: math.dist(_ball(env), two_room.DOOR) <= 0.2,
        (
            "the ball is in the door",
            "the ball is between the rooms",
            "in the door is the ball",
            "the ball stands between the rooms",
        ),
        ("the ball stands in the doorway",),
    ),
    Statement(
        "two_room",
        lambda env: _ball(env)[1] > 0.5,
        (
            "the ball is at the top of the rooms",
            "the ball is by the upper wall",
            "at the top is the ball",
            "the ball is up at the wall",
        ),
        ("the ball has gone up to the top wall",),
    ),
    Statement(
        "two_room",
        lambda env: _ball(env)[1] < -0.5,
        (
            "the ball is at the bottom of the rooms",
            "the ball is by the lower wall",
            "at the bottom is the ball",
            "the ball is down at the wall",
        ),
        ("the ball has gone down to the bottom wall",),
    ),
    Statement(
        "two_room",
        lambda env: math.dist(_ball(env), env.goal) <= two_room.SUCCESS,
        (
            "the ball is at its goal",
            "the ball is on the goal's disk",
            "the ball has reached its goal",
            "on the disk of the goal is the ball",
            "the goal has the ball on it",
        ),
        ("the ball has arrived where it should be",),
    ),
]
_PUSHER = [
    Statement(
        "pusher",
        lambda env: True,
        (
            "a ball that pushes a block",
            "a block and a pushing ball",
            "we see a ball and a block",
            "here is a block with a ball",
        ),
        ("this is a pusher",),
    ),
    Statement(
        "pusher",
        lambda env: env._distances()[1] <= pusher.SUCCESS,
        (
            "the block is in its place",
            "the block is on its goal",
            "the block has reached its goal",
            "the block has been put in its place",
            "in its place is the block",
        ),
        ("the block has arrived where it should be",),
    ),
    Statement(
        "pusher",
        lambda env: env._distances()[0] <= 0.28,
        (
            "the ball is at the block",
            "the ball is beside the block",
            "the ball touches the block",
            "the block has the ball beside it",
            "next to the block is the ball",
            "the ball is close by the block",
        ),
        ("the ball is right by the block",),
    ),
    Statement(
        "pusher",
        lambda env: env._distances()[0] > 0.6,
        (
            "the ball is far from the block",
            "the ball is away from the block",
            "far from the block is the ball",
            "the ball is not near the block",
            "the block and the ball are far apart",
        ),
        ("the ball is nowhere near the block",),
    ),
    Statement(
        "pusher",
        _beside_place(0, -1),
        (
            "the block is left of its place",
            "the block has to go right",
            "the block should be further right",
            "left of its place is the block",
        ),
        ("its place is right of the block",),
    ),
    Statement(
        "pusher",
        _beside_place(0, 1),
        (
            "the block is right of its place",
            "the block has to go left",
            "the block should be further left",
            "right of its place is the block",
        ),
        ("its place is left of the block",),
    ),
    Statement(
        "pusher",
        _beside_place(1, 1),
        (
            "the block is above its place",
            "the block has to go down",
            "the block should be further down",
            "above its place is the block",
        ),
        ("its place is below the block",),
    ),
    Statement(
        "pusher",
        _beside_place(1, -1),
        (
            "the block is below its place",
            "the block has to go up",
            "the block should be further up",
            "below its place is the block",
        ),
        ("its place is above the block",),
    ),
]
STATEMENTS = (*CARTPOLE, *PENDULUM, *_REACHER, *_TWO_ROOM, *_PUSHER)
