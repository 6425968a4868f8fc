"""What one may ask for: six kinds of instruction, how far each is done, and the sentences that say and mean it."""

from __future__ import annotations

import functools
import itertools
import re
from typing import NamedTuple

import numpy as np

from envs.tabletop.facts import MISSING, TOOL_TOUCHING, Fact, holds
from envs.tabletop.geometry import tool_gap
from envs.tabletop.instruction_phrasings import INSTRUCTIONS
from envs.tabletop.scene import LIFTED, Object, Scene
from envs.tabletop.sentences import fill
from envs.tabletop.vocabulary import COLOURS, SHAPES, SIZES, Reference, check_choice
from envs.tasks.task import closeness

KINDS = {  # kind: how many objects it names, and what is true of them when it is done
    "reach": (1, "tool_touches"),
    "push_to_zone": (1, "in_zone"),
    "push_next_to": (2, "next_to"),
    "separate": (2, "far_apart"),
    "line_up": (3, "lined_up"),
    "lift": (1, "lifted"),
}
GRIPPER_ONLY = ("lift",)
_TOOL_SHARE = 0.2  # of the reward, for being near an object that is to be moved
# Metres where a part of the reward has fallen to a tenth.
_TOOL_MARGIN, _OBJECT_MARGIN, _LINE_MARGIN, _LIFT_MARGIN = 1.0, 0.7, 0.4, 0.15


def kinds_of(tool: str) -> tuple[str, ...]:
    """The kinds that an embodiment can follow."""
    return tuple(kind for kind in KINDS if tool == "gripper" or kind not in GRIPPER_ONLY)


class Instruction(NamedTuple):
    """`Instruction("push_to_zone", (Reference("red", "cube"),), "green")`; `zone` is a colour, for that kind alone."""

    kind: str
    objects: tuple[Reference, ...]
    zone: str | None = None

    @property
    def result(self) -> Fact:
        """What is true of a scene when it is done."""
        return Fact(KINDS[self.kind][1], self.objects, self.zone)

    def satisfied(self, scene: Scene) -> bool:
        """It is done now."""
        return holds(self.result, scene)

    def progress(self, scene: Scene) -> float:
        """How far it is done, in [0, 1]: the reward of one physics step.

        `reach`: the tool's closeness to the object. All else: 0.8 for the closeness of what is named to where it shall
        be (1 where the instruction is satisfied), 0.2 for the tool's closeness to the nearest object that is named.
        0 where something that is named is absent.
        """
        indices = [scene.index(reference) for reference in self.objects]
        if None in indices or (self.zone is not None and scene.zone(self.zone) is None):
            return 0.0
        return progress(self.kind, scene, [scene.objects[index] for index in indices], self.zone)

    def sentence(self, rng: np.random.Generator, phrasings: str = "seen") -> str:
        """One of the ways to say it, drawn by `rng`; `phrasings` is `seen` or `held_out`."""
        check_choice("phrasings", phrasings, INSTRUCTIONS)
        templates = INSTRUCTIONS[phrasings][self.kind]
        return fill(templates[int(rng.integers(len(templates)))], self.objects, self.zone)


def progress(kind: str, scene: Scene, things: list[Object], zone: str | None = None) -> float:
    """`Instruction.progress` for the objects that are meant."""
    near = closeness(min(tool_gap(scene.tool, thing) for thing in things) - TOOL_TOUCHING, _TOOL_MARGIN)
    if kind == "reach":
        return near
    if kind == "lift":
        high = things[0].position[2] if things[0].held else 0.0
        done = closeness(LIFTED - high, _LIFT_MARGIN)
    else:
        margin = _LINE_MARGIN if kind == "line_up" else _OBJECT_MARGIN
        done = closeness(MISSING[KINDS[kind][1]](scene, zone, *things), margin)
    return (1 - _TOOL_SHARE) * done + _TOOL_SHARE * near


def draw(rng: np.random.Generator, scene: Scene, kinds=None) -> Instruction | None:
    """An instruction about the scene: a kind that it has the objects and zones for, and its first objects.

    Args:
        kinds: those to draw from; None: all that the scene's tool can follow.

    Returns:
        None where the scene has too few objects or zones for every kind.
    """
    possible = [
        kind
        for kind in (kinds or kinds_of(scene.tool.kind))
        if KINDS[kind][0] <= len(scene.objects) and (kind != "push_to_zone" or scene.zones)
    ]
    if not possible:
        return None
    kind = possible[int(rng.integers(len(possible)))]
    named = tuple(scene.name(index) for index in range(KINDS[kind][0]))
    zone = scene.zones[int(rng.integers(len(scene.zones)))].colour if kind == "push_to_zone" else None
    return Instruction(kind, named, zone)


_WORDS = {"colour": "|".join(COLOURS), "shape": "|".join(SHAPES), "size": "|".join(SIZES)}


@functools.cache
def _patterns() -> list[tuple[re.Pattern, str]]:
    """Every phrasing as an expression that takes it apart, with its kind."""
    patterns = []
    for by_kind in INSTRUCTIONS.values():
        for kind, templates in by_kind.items():
            for template in templates:
                expression = "".join(_part(part) for part in re.split(r"(\{\w+\})", template))
                patterns.append((re.compile(expression), kind))
    return patterns


def _part(part: str) -> str:
    if part == "{value}":
        return f"(?P<zone>{_WORDS['colour']})"
    if part.startswith("{"):
        number = part[1:-1]
        named = {key: f"(?P<{key}{number}>{words})" for key, words in _WORDS.items()}
        return "the (?:{size} )?{colour} {shape}".format(**named)
    return re.escape(part)


def parse(sentence: str) -> Instruction:
    """The instruction that a sentence means: the inverse of `Instruction.sentence`, for seen and held-out phrasings.

    Capitals, a full stop and spaces around it don't matter.

    Raises:
        ValueError: a sentence that names an object twice, or is not understood; the message gives examples of those
            that are.
    """
    plain = " ".join(sentence.lower().strip().rstrip(".!").split())
    for pattern, kind in _patterns():
        match = pattern.fullmatch(plain)
        if match:
            found = match.groupdict()
            named = tuple(
                Reference(found[f"colour{i}"], found[f"shape{i}"], found[f"size{i}"]) for i in range(KINDS[kind][0])
            )
            if any(a.may_be(b) for a, b in itertools.combinations(named, 2)):
                raise ValueError(
                    f"env.kwargs.instruction={sentence!r} names one object twice; name different ones, by their sizes "
                    "where they are alike: the small red cube, the large red cube"
                )
            return Instruction(kind, named, found.get("zone"))
    raise ValueError(_not_understood(sentence))


def _not_understood(sentence: str) -> str:
    examples = [Reference("red", "cube"), Reference("blue", "ball"), Reference("yellow", "cross")]
    shown = [
        fill(templates[0], tuple(examples[: KINDS[kind][0]]), "green")
        for kind, templates in INSTRUCTIONS["seen"].items()
    ]
    return (
        f"env.kwargs.instruction={sentence!r} is not understood. Say it like one of these: "
        f"{'; '.join(repr(text) for text in shown)}. Colours: {', '.join(COLOURS)}; shapes: {', '.join(SHAPES)}; "
        f"sizes: {', '.join(SIZES)}."
    )
