"""How instructions and facts are said. `{0}`, `{1}`, `{2}` are objects, `{value}` a colour, a place or a number.

Seen phrasings are for training, held-out ones never are. `{a0}` is an object with "a" or "an".
"""

from __future__ import annotations

from envs.tabletop.vocabulary import Reference

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six")

INSTRUCTIONS = {
    "seen": {
        "reach": (
            "reach {0}",
            "touch {0}",
            "go to {0}",
            "move to {0}",
            "approach {0}",
            "make contact with {0}",
            "reach for {0}",
        ),
        "push_to_zone": (
            "push {0} to the {value} zone",
            "move {0} into the {value} area",
            "bring {0} to the {value} zone",
            "slide {0} into the {value} zone",
            "put {0} in the {value} area",
            "push {0} onto the {value} square",
            "shove {0} into the {value} square",
        ),
        "push_next_to": (
            "push {0} next to {1}",
            "move {0} beside {1}",
            "bring {0} close to {1}",
            "slide {0} up to {1}",
            "put {0} next to {1}",
            "push {0} against {1}",
            "move {0} to {1}",
        ),
        "separate": (
            "separate {0} and {1}",
            "move {0} away from {1}",
            "push {0} and {1} apart",
            "push {0} far from {1}",
            "pull {0} away from {1}",
            "keep {0} apart from {1}",
        ),
        "line_up": (
            "line up {0}, {1} and {2}",
            "put {0}, {1} and {2} in a row",
            "arrange {0}, {1} and {2} in a line",
            "make a line of {0}, {1} and {2}",
            "align {0}, {1} and {2}",
            "form a row with {0}, {1} and {2}",
        ),
        "lift": (
            "lift {0}",
            "pick up {0}",
            "raise {0}",
            "lift {0} off the table",
            "grasp {0} and lift it",
            "pick {0} up",
            "hold {0} up",
        ),
    },
    "held_out": {
        "reach": ("get to {0}", "head over to {0}", "make your way to {0}"),
        "push_to_zone": (
            "get {0} over to the {value} zone",
            "{0} belongs in the {value} area",
            "the {value} square is where {0} should go",
        ),
        "push_next_to": (
            "get {0} right by {1}",
            "place {0} alongside {1}",
            "{0} should end up near {1}",
        ),
        "separate": (
            "split up {0} and {1}",
            "make room between {0} and {1}",
            "{0} should be a long way from {1}",
        ),
        "line_up": (
            "{0}, {1} and {2} should stand in one straight line",
            "get {0}, {1} and {2} into a straight row",
            "set {0}, {1} and {2} out along a line",
        ),
        "lift": ("take {0} up into the air", "get {0} off the ground", "hoist {0}"),
    },
}

FACTS = {
    "seen": {
        "exists": ("there is {a0}", "{a0} is on the table", "a picture of {a0}", "one can see {a0}"),
        "count": (
            "there are {value} objects",
            "there are {value} objects on the table",
            "a table with {value} objects",
        ),
        "count_one": ("there is one object", "there is one object on the table", "a table with one object"),
        "zone": ("there is a {value} zone", "the table has a {value} area", "a table with a {value} square"),
        "at": (
            "{0} is on the {value}",
            "{0} is at the {value} of the table",
            "{0} lies on the {value} side",
        ),
        "at_corner": ("{0} is in the {value} corner", "{0} is at the {value}", "{0} lies in the {value} corner"),
        "at_middle": (
            "{0} is in the middle",
            "{0} is in the middle of the table",
            "{0} is at the centre of the table",
        ),
        "in_zone": (
            "{0} is in the {value} zone",
            "{0} is on the {value} square",
            "{0} is inside the {value} area",
            "the {value} zone contains {0}",
        ),
        "lifted": (
            "{0} is held up in the air",
            "the robot holds {0} up",
            "{0} is lifted off the table",
            "the gripper has lifted {0}",
        ),
        "tool_touches": ("the robot touches {0}", "the robot is at {0}", "the robot has reached {0}"),
        "tool_near": ("the robot is near {0}", "the robot is close to {0}", "{0} is close to the robot"),
        "left_of": ("{0} is left of {1}", "{0} is to the left of {1}", "{0} is further left than {1}"),
        "right_of": ("{0} is right of {1}", "{0} is to the right of {1}", "{0} is further right than {1}"),
        "above": ("{0} is above {1}", "{0} is behind {1}", "{0} is higher up than {1}"),
        "below": ("{0} is below {1}", "{0} is in front of {1}", "{0} is lower down than {1}"),
        "next_to": ("{0} is next to {1}", "{0} is beside {1}", "{0} and {1} are close together"),
        "touching": ("{0} touches {1}", "{0} and {1} are touching", "{0} is in contact with {1}"),
        "far_apart": ("{0} and {1} are far apart", "{0} is far from {1}", "{0} is a long way from {1}"),
        "lined_up": (
            "{0}, {1} and {2} are lined up",
            "{0}, {1} and {2} are in a row",
            "{0}, {1} and {2} form a line",
        ),
    },
    "held_out": {
        "exists": ("the scene has {a0}", "we find {a0} here"),
        "count": ("{value} objects can be counted", "the number of objects is {value}"),
        "count_one": ("a single object can be counted", "the number of objects is one"),
        "zone": ("part of the table is marked {value}", "some of the table is a {value} zone"),
        "at": ("{0} can be found at the {value}", "over on the {value} is {0}"),
        "at_corner": ("the {value} corner has {0}", "{0} sits in the corner at the {value}"),
        "at_middle": ("{0} can be found at the centre", "the middle of the table has {0}"),
        "in_zone": ("{0} has arrived in the {value} area", "in the {value} square lies {0}"),
        "lifted": ("{0} is up off the ground", "up in the air is {0}"),
        "tool_touches": ("the robot is in contact with {0}", "{0} is being touched by the robot"),
        "tool_near": ("the robot is not far from {0}", "{0} has the robot nearby"),
        "left_of": ("{0} is on the left side of {1}", "looking left from {1} one finds {0}"),
        "right_of": ("{0} is on the right side of {1}", "looking right from {1} one finds {0}"),
        "above": ("{0} is further up the picture than {1}", "{1} has {0} behind it"),
        "below": ("{0} is further down the picture than {1}", "{1} has {0} in front of it"),
        "next_to": ("{0} stands right by {1}", "{1} has {0} at its side"),
        "touching": ("there is no gap between {0} and {1}", "{0} is right against {1}"),
        "far_apart": ("{0} is nowhere near {1}", "there is a lot of room between {0} and {1}"),
        "lined_up": (
            "{0}, {1} and {2} stand in one straight line",
            "a straight line goes through {0}, {1} and {2}",
        ),
    },
}


def fill(template: str, subjects: tuple[Reference, ...], value: str | int | None = None) -> str:
    """The template as a sentence; a number is spelt."""
    definite = [reference.definite() for reference in subjects]
    indefinite = {f"a{index}": reference.indefinite() for index, reference in enumerate(subjects)}
    return template.format(*definite, value=_NUMBERS[value] if isinstance(value, int) else value, **indefinite)
