"""What can be said of a picture of a built-in task, and when it is true."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from envs.tasks import pusher, reacher, two_room


class Statement(NamedTuple):
    """Something that is true of some pictures of one task.

    Attributes:
        task: which one, a key of `TASKS`.
        true: of the env, as its joints and its goal stand.
        seen, held_out: how it is said; the latter is never trained on.
    """

    task: str
    true: Callable[[object], bool]
    seen: tuple[str, ...]
    held_out: tuple[str, ...]


TASKS = {
    "cartpole": "worldmodel/CartpoleSwingup-v0",
    "pendulum": "worldmodel/PendulumSwingup-v0",
    "reacher": "worldmodel/Reacher-v0",
    "two_room": "worldmodel/TwoRoom-v0",
    "pusher": "worldmodel/Pusher-v0",
}
UPRIGHT, LEANING = 0.26, math.pi / 2  # radians from the vertical: within 15 degrees; above the horizontal
CENTRED, ASIDE = 0.3, 0.6  # metres, of the cart
NEAR = 0.1  # metres from the reacher's tip to the disk's edge
_BESIDE = 0.15  # metres, how much further left, right, up or down a block is than its place


def _angle(env) -> float:
    """Of a pole, from the vertical, clockwise in the picture, in (-pi, pi]."""
    angle = float(env.data.qpos[-1])
    return math.atan2(math.sin(angle), math.cos(angle))


def _pole(task: str, noun: str) -> list[Statement]:
    return [
        Statement(
            task,
            lambda env: abs(_angle(env)) <= UPRIGHT,
            (
                f"the {noun} stands upright",
                f"the {noun} is upright",
                f"the {noun} points straight up",
                f"the {noun} is balanced",
            ),
            (f"the {noun} is held vertically upwards", f"the {noun} has been swung up and stands"),
        ),
        Statement(
            task,
            lambda env: abs(_angle(env)) >= math.pi - UPRIGHT,
            (f"the {noun} hangs down", f"the {noun} points straight down", f"the {noun} is hanging"),
            (f"the {noun} dangles", f"the {noun} is at its lowest"),
        ),
        Statement(
            task,
            lambda env: abs(_angle(env)) < LEANING,
            (f"the {noun} is above the horizontal", f"the {noun} points upwards"),
            (f"the {noun} is in the upper half",),
        ),
        Statement(
            task,
            lambda env: abs(_angle(env)) > LEANING,
            (f"the {noun} is below the horizontal", f"the {noun} points downwards"),
            (f"the {noun} is in the lower half",),
        ),
        Statement(
            task,
            lambda env: abs(abs(_angle(env)) - LEANING) <= UPRIGHT,
            (f"the {noun} is horizontal", f"the {noun} lies level"),
            (f"the {noun} is held out sideways",),
        ),
        Statement(
            task,
            lambda env: math.sin(_angle(env)) > math.sin(UPRIGHT),
            (f"the {noun} leans to the right", f"the {noun} points to the right"),
            (f"the {noun} has fallen to the right",),
        ),
        Statement(
            task,
            lambda env: math.sin(_angle(env)) < -math.sin(UPRIGHT),
            (f"the {noun} leans to the left", f"the {noun} points to the left"),
            (f"the {noun} has fallen to the left",),
        ),
    ]


def _cart(env) -> float:
    return float(env.data.qpos[0])


def _to_disk(env) -> float:
    """Metres from the reacher's tip to the edge of the disk; 0 on it."""
    return max(math.hypot(*env._to_goal()) - reacher.RADIUS, 0.0)


def _ball(env) -> tuple[float, float]:
    return float(env.data.qpos[0]), float(env.data.qpos[1])


def _beside_place(axis: int, sign: int) -> Callable[[object], bool]:
    return lambda env: sign * (env.data.qpos[2 + axis] - env.goal[axis]) > _BESIDE


_CARTPOLE = [
    Statement("cartpole", lambda env: True, ("a cart with a pole", "a pole on a cart"), ("this is a cartpole",)),
    *_pole("cartpole", "pole"),
    Statement(
        "cartpole",
        lambda env: abs(_cart(env)) <= CENTRED,
        ("the cart is in the middle", "the cart is at the centre of the rail"),
        ("the cart is halfway along",),
    ),
    Statement(
        "cartpole",
        lambda env: _cart(env) > ASIDE,
        ("the cart is on the right", "the cart is at the right of the rail"),
        ("the cart has gone to the right",),
    ),
    Statement(
        "cartpole",
        lambda env: _cart(env) < -ASIDE,
        ("the cart is on the left", "the cart is at the left of the rail"),
        ("the cart has gone to the left",),
    ),
    Statement(
        "cartpole",
        lambda env: abs(_cart(env)) <= CENTRED and abs(_angle(env)) <= UPRIGHT,
        ("the pole stands upright in the middle", "the pole is upright and the cart is in the middle"),
        ("the pole is balanced over the centre of the rail",),
    ),
]
_PENDULUM = [
    Statement("pendulum", lambda env: True, ("a pendulum", "a pendulum on a pivot"), ("this is a pendulum",)),
    *_pole("pendulum", "pendulum"),
]
_REACHER = [
    Statement("reacher", lambda env: True, ("an arm with two links", "a robot arm and a disk"), ("this is a reacher",)),
    Statement(
        "reacher",
        lambda env: _to_disk(env) == 0.0,
        ("the tip of the arm is on the disk", "the arm touches the disk", "the arm has reached the target"),
        ("the end of the arm lies over the disk", "the arm is at the disk"),
    ),
    Statement(
        "reacher",
        lambda env: _to_disk(env) <= NEAR,
        ("the tip of the arm is near the disk", "the arm is close to the target"),
        ("the end of the arm is not far from the disk",),
    ),
    Statement(
        "reacher",
        lambda env: _to_disk(env) > NEAR,
        ("the tip of the arm is far from the disk", "the arm is far from the target"),
        ("the end of the arm is nowhere near the disk",),
    ),
    Statement(
        "reacher",
        lambda env: abs(env.data.qpos[1]) <= 0.5,
        ("the arm is stretched out", "the arm is straight"),
        ("both links point the same way",),
    ),
    Statement(
        "reacher",
        lambda env: abs(env.data.qpos[1]) >= 2.0,
        ("the arm is folded", "the arm is bent sharply"),
        ("the links lie on top of each other",),
    ),
]
_TWO_ROOM = [
    Statement(
        "two_room",
        lambda env: True,
        ("two rooms with a door", "a ball in a house of two rooms"),
        ("these are two rooms",),
    ),
    Statement(
        "two_room",
        lambda env: _ball(env)[0] < -0.1,
        ("the ball is in the left room", "the ball is left of the wall"),
        ("the left room has the ball",),
    ),
    Statement(
        "two_room",
        lambda env: _ball(env)[0] > 0.1,
        ("the ball is in the right room", "the ball is right of the wall"),
        ("the right room has the ball",),
    ),
    Statement(
        "two_room",
        lambda env: math.dist(_ball(env), two_room.DOOR) <= 0.2,
        ("the ball is in the door", "the ball is between the rooms"),
        ("the ball stands in the doorway",),
    ),
    Statement(
        "two_room",
        lambda env: _ball(env)[1] > 0.5,
        ("the ball is at the top of the rooms", "the ball is by the upper wall"),
        ("the ball has gone up to the top wall",),
    ),
    Statement(
        "two_room",
        lambda env: _ball(env)[1] < -0.5,
        ("the ball is at the bottom of the rooms", "the ball is by the lower wall"),
        ("the ball has gone down to the bottom wall",),
    ),
    Statement(
        "two_room",
        lambda env: math.dist(_ball(env), env.goal) <= two_room.SUCCESS,
        ("the ball is at its goal", "the ball is on the goal's disk"),
        ("the ball has arrived where it should be",),
    ),
]
_PUSHER = [
    Statement(
        "pusher", lambda env: True, ("a ball that pushes a block", "a block and a pushing ball"), ("this is a pusher",)
    ),
    Statement(
        "pusher",
        lambda env: env._distances()[1] <= pusher.SUCCESS,
        ("the block is in its place", "the block is on its goal"),
        ("the block has arrived where it should be",),
    ),
    Statement(
        "pusher",
        lambda env: env._distances()[0] <= 0.28,
        ("the ball is at the block", "the ball is beside the block"),
        ("the ball is right by the block",),
    ),
    Statement(
        "pusher",
        lambda env: env._distances()[0] > 0.6,
        ("the ball is far from the block", "the ball is away from the block"),
        ("the ball is nowhere near the block",),
    ),
    Statement(
        "pusher",
        _beside_place(0, -1),
        ("the block is left of its place", "the block has to go right"),
        ("its place is right of the block",),
    ),
    Statement(
        "pusher",
        _beside_place(0, 1),
        ("the block is right of its place", "the block has to go left"),
        ("its place is left of the block",),
    ),
    Statement(
        "pusher",
        _beside_place(1, 1),
        ("the block is above its place", "the block has to go down"),
        ("its place is below the block",),
    ),
    Statement(
        "pusher",
        _beside_place(1, -1),
        ("the block is below its place", "the block has to go up"),
        ("its place is above the block",),
    ),
]
STATEMENTS = (*_CARTPOLE, *_PENDULUM, *_REACHER, *_TWO_ROOM, *_PUSHER)
