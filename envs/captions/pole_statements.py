"""What can be said of a cartpole and of a pendulum, and when it is true."""

from __future__ import annotations

import math

from envs.captions.statement import Statement

UPRIGHT, LEANING = 0.26, math.pi / 2  # radians from the vertical: within 15 degrees; above the horizontal
CENTRED, ASIDE = 0.3, 0.6  # metres, of the cart


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
                f"upright stands the {noun}",
                f"the {noun} is up and balanced",
                f"the {noun} should stand upright",
            ),
            (f"the {noun} is held vertically upwards", f"the {noun} has been swung up and stands"),
        ),
        Statement(
            task,
            lambda env: abs(_angle(env)) >= math.pi - UPRIGHT,
            (
                f"the {noun} hangs down",
                f"the {noun} points straight down",
                f"the {noun} is hanging",
                f"straight down hangs the {noun}",
                f"the {noun} is down",
                f"the {noun} hangs at the bottom",
            ),
            (f"the {noun} dangles", f"the {noun} is at its lowest"),
        ),
        Statement(
            task,
            lambda env: abs(_angle(env)) < LEANING,
            (
                f"the {noun} is above the horizontal",
                f"the {noun} points upwards",
                f"the {noun} is in the upper part",
                f"up points the {noun}",
            ),
            (f"the {noun} is in the upper half",),
        ),
        Statement(
            task,
            lambda env: abs(_angle(env)) > LEANING,
            (
                f"the {noun} is below the horizontal",
                f"the {noun} points downwards",
                f"the {noun} is in the lower part",
                f"down points the {noun}",
            ),
            (f"the {noun} is in the lower half",),
        ),
        Statement(
            task,
            lambda env: abs(abs(_angle(env)) - LEANING) <= UPRIGHT,
            (
                f"the {noun} is horizontal",
                f"the {noun} lies level",
                f"the {noun} points sideways",
                f"the {noun} is level",
            ),
            (f"the {noun} is held out sideways",),
        ),
        Statement(
            task,
            lambda env: math.sin(_angle(env)) > math.sin(UPRIGHT),
            (
                f"the {noun} leans to the right",
                f"the {noun} points to the right",
                f"to the right leans the {noun}",
                f"the {noun} is over on the right",
            ),
            (f"the {noun} has fallen to the right",),
        ),
        Statement(
            task,
            lambda env: math.sin(_angle(env)) < -math.sin(UPRIGHT),
            (
                f"the {noun} leans to the left",
                f"the {noun} points to the left",
                f"to the left leans the {noun}",
                f"the {noun} is over on the left",
            ),
            (f"the {noun} has fallen to the left",),
        ),
    ]


def _cart(env) -> float:
    return float(env.data.qpos[0])


CARTPOLE = [
    Statement(
        "cartpole",
        lambda env: True,
        ("a cart with a pole", "a pole on a cart", "we see a cart and a pole", "a pole stands on a cart"),
        ("this is a cartpole",),
    ),
    *_pole("cartpole", "pole"),
    Statement(
        "cartpole",
        lambda env: abs(_cart(env)) <= CENTRED,
        (
            "the cart is in the middle",
            "the cart is at the centre of the rail",
            "in the middle is the cart",
            "the cart stands at the centre",
        ),
        ("the cart is halfway along",),
    ),
    Statement(
        "cartpole",
        lambda env: _cart(env) > ASIDE,
        (
            "the cart is on the right",
            "the cart is at the right of the rail",
            "on the right is the cart",
            "the right of the rail has the cart",
        ),
        ("the cart has gone to the right",),
    ),
    Statement(
        "cartpole",
        lambda env: _cart(env) < -ASIDE,
        (
            "the cart is on the left",
            "the cart is at the left of the rail",
            "on the left is the cart",
            "the left of the rail has the cart",
        ),
        ("the cart has gone to the left",),
    ),
    Statement(
        "cartpole",
        lambda env: abs(_cart(env)) <= CENTRED and abs(_angle(env)) <= UPRIGHT,
        (
            "the pole stands upright in the middle",
            "the pole is upright and the cart is in the middle",
            "the pole is balanced and the cart is at the centre",
            "in the middle the pole stands upright",
        ),
        ("the pole is balanced over the centre of the rail",),
    ),
]
PENDULUM = [
    Statement(
        "pendulum",
        lambda env: True,
        ("a pendulum", "a pendulum on a pivot", "we see a pendulum", "a pendulum turns on a pivot"),
        ("this is a pendulum",),
    ),
    *_pole("pendulum", "pendulum"),
]
