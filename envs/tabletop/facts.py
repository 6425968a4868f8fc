"""Statements that are true or false of a scene, and the sentences that say them."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np

from envs.tabletop.fact_phrasings import FACTS
from envs.tabletop.geometry import gap, off_line, outside, tool_gap
from envs.tabletop.scene import LIFTED, Object, Scene
from envs.tabletop.sentences import fill
from envs.tabletop.vocabulary import Reference, check_choice

# Metres.
TOUCHING, NEXT_TO, FAR_APART = 0.02, 0.08, 0.5  # between two objects
TOOL_TOUCHING, TOOL_NEAR = 0.03, 0.15  # between tool and object
LINED_UP = 0.07  # off the line
BESIDE = 0.15  # how much further left, right, up or down
_SIDE, _MIDDLE = 0.4, 0.3  # from the middle of the table

# How far a place is from x and y, in metres; 0 or less there.
PLACES = {
    "left": lambda x, y: x + _SIDE,
    "right": lambda x, y: _SIDE - x,
    "top": lambda x, y: _SIDE - y,
    "bottom": lambda x, y: y + _SIDE,
    "middle": lambda x, y: max(abs(x), abs(y)) - _MIDDLE,
    "top left": lambda x, y: _SIDE + max(x, -y),
    "top right": lambda x, y: _SIDE + max(-x, -y),
    "bottom left": lambda x, y: _SIDE + max(x, y),
    "bottom right": lambda x, y: _SIDE + max(-x, y),
}
_CORNERS = tuple(place for place in PLACES if " " in place)


def _to_zone(scene: Scene, colour: str, thing: Object) -> float:
    zone = scene.zone(colour)
    if zone is None:
        return math.inf
    return max(outside(thing, zone), 0.0 if thing.position[2] < LIFTED / 2 else thing.position[2])


# By how many metres it does not hold of the objects that a fact's references mean; it holds at 0 or less. All take
# (scene, value, *objects).
MISSING = {
    "exists": lambda scene, value, a: 0.0,
    "at": lambda scene, place, a: PLACES[place](a.position[0], a.position[1]),
    "in_zone": _to_zone,
    "lifted": lambda scene, value, a: LIFTED - a.position[2] if a.held else LIFTED,
    "tool_touches": lambda scene, value, a: tool_gap(scene.tool, a) - TOOL_TOUCHING,
    "tool_near": lambda scene, value, a: tool_gap(scene.tool, a) - TOOL_NEAR,
    "left_of": lambda scene, value, a, b: a.position[0] - b.position[0] + BESIDE,
    "right_of": lambda scene, value, a, b: b.position[0] - a.position[0] + BESIDE,
    "above": lambda scene, value, a, b: b.position[1] - a.position[1] + BESIDE,
    "below": lambda scene, value, a, b: a.position[1] - b.position[1] + BESIDE,
    "next_to": lambda scene, value, a, b: gap(a, b) - NEXT_TO,
    "touching": lambda scene, value, a, b: gap(a, b) - TOUCHING,
    "far_apart": lambda scene, value, a, b: FAR_APART - gap(a, b),
    "lined_up": lambda scene, value, a, b, c: off_line(a, b, c) - LINED_UP,
}
# What holds of the scene as a whole. These take (scene, value).
_WHOLE = {
    "count": lambda scene, number: len(scene.objects) == number,
    "zone": lambda scene, colour: scene.zone(colour) is not None,
}
SYMMETRIC = ("next_to", "touching", "far_apart", "lined_up")


class Fact(NamedTuple):
    """A statement: `Fact("in_zone", (Reference("red", "cube"),), "green")`.

    `relation` is a key of MISSING, with as many `subjects` as it takes, or `count` or `zone`, with none. `value` is a
    zone's colour (`in_zone`, `zone`), a place (`at`) or a number (`count`).
    """

    relation: str
    subjects: tuple[Reference, ...] = ()
    value: str | int | None = None

    def sentence(self, rng: np.random.Generator, phrasings: str = "seen") -> str:
        """One of the ways to say it, drawn by `rng`; `phrasings` is `seen` or `held_out`."""
        check_choice("phrasings", phrasings, FACTS)
        templates = FACTS[phrasings][_phrased_as(self)]
        return fill(templates[int(rng.integers(len(templates)))], self.subjects, self.value)


def _phrased_as(fact: Fact) -> str:
    if fact.relation == "at":
        return "at_corner" if fact.value in _CORNERS else "at_middle" if fact.value == "middle" else "at"
    if fact.relation == "count":
        return "count_one" if fact.value == 1 else "count"
    return fact.relation


def holds(fact: Fact, scene: Scene) -> bool:
    """The fact is true of the scene. False of what is absent; of several that are meant, one must make it true."""
    relation, subjects, value = fact
    if relation in _WHOLE:
        return _WHOLE[relation](scene, value)
    missing = MISSING[relation]
    meant = []
    for reference in subjects:
        found = scene.matching(reference)
        if not found:
            return False
        meant.append(found)
    if len(meant) == 1:
        return any(missing(scene, value, a) <= 0 for a in meant[0])
    return any(
        missing(scene, value, *chosen) <= 0
        for chosen in itertools.product(*meant)
        if all(a is not b for a, b in itertools.combinations(chosen, 2))
    )


def truth_matrix(facts, scenes) -> np.ndarray:
    """Which of the facts hold of which scenes: bool [facts, scenes]."""
    return np.array([[holds(fact, scene) for scene in scenes] for fact in facts], bool).reshape(len(facts), len(scenes))


def all_facts(scene: Scene) -> list[Fact]:
    """Every fact that holds of the scene, each object by its shortest unambiguous name.

    `exists` also comes with less said (a red object, a ball, a large ball); symmetric relations come in one order.
    """
    names = [scene.name(index) for index in range(len(scene.objects))]
    facts = [Fact("count", (), len(scene.objects)), *(Fact("zone", (), zone.colour) for zone in scene.zones)]
    for thing in scene.objects:
        colour, shape, size = thing.reference
        for reference in (
            thing.reference,
            Reference(colour, shape),
            Reference(colour),
            Reference(None, shape),
            Reference(None, shape, size),
        ):
            facts.append(Fact("exists", (reference,)))
    facts = list(dict.fromkeys(facts))
    for a in names:
        candidates = [Fact("at", (a,), place) for place in PLACES]
        candidates += [Fact("in_zone", (a,), zone.colour) for zone in scene.zones]
        candidates += [Fact(relation, (a,)) for relation in ("lifted", "tool_touches", "tool_near")]
        facts += [fact for fact in candidates if holds(fact, scene)]
    for count, relations in (
        (2, ("left_of", "right_of", "above", "below", "next_to", "touching", "far_apart")),
        (3, ("lined_up",)),
    ):
        for relation in relations:
            choose = itertools.combinations if relation in SYMMETRIC else itertools.permutations
            facts += [fact for chosen in choose(names, count) if holds(fact := Fact(relation, chosen), scene)]
    return facts


def sample(scene: Scene, rng: np.random.Generator, count: int = 1) -> list[Fact]:
    """Draw `count` facts that hold of the scene: first a relation that holds at all, each as often, then one fact of
    it, so that rare relations are not drowned by common ones."""
    by_relation: dict[str, list[Fact]] = {}
    for fact in all_facts(scene):
        by_relation.setdefault(fact.relation, []).append(fact)
    relations = list(by_relation)
    drawn = []
    for _ in range(count):
        facts = by_relation[relations[int(rng.integers(len(relations)))]]
        drawn.append(facts[int(rng.integers(len(facts)))])
    return drawn
