"""Which sentences are true of which pictures: the facts of many scenes as arrays, asked all at once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from envs.captions.statements import STATEMENTS
from envs.tabletop.facts import MISSING, PLACES, Fact
from envs.tabletop.instructions import KINDS, Instruction, progress
from envs.tabletop.scene import MAX_OBJECTS, MAX_ZONES, Object, Scene
from envs.tabletop.vocabulary import COLOURS, SHAPES, SIZES

# What is said of one, two and three objects: relations of facts with their values, and kinds of instructions with theirs.
OF_ONE = (
    ("exists", None),
    *(("at", place) for place in PLACES),
    *((relation, colour) for relation in ("in_zone", "push_to_zone") for colour in COLOURS),
    *((relation, None) for relation in ("lifted", "tool_touches", "tool_near", "reach", "lift")),
)
OF_TWO = ("left_of", "right_of", "above", "below", "next_to", "touching", "far_apart", "push_next_to", "separate")
OF_THREE = ("lined_up", "line_up")
TRUE = 255  # of degrees
_ALMOST = 0.4  # the degree of what is as good as true
_HALF = 0.1  # metres by which a fact does not hold that is true to half that degree
Claims = tuple[Fact | Instruction | int, ...]
"""All that a sentence says: facts of a tabletop or what is asked for on one, or numbers of STATEMENTS."""

_COLOURS, _SHAPES, _SIZES = (tuple(names) for names in (COLOURS, SHAPES, SIZES))
_STEPS = (25, 51, 77, 102)  # between degrees of what does not hold, told apart by `attributes`
# Of `attributes`: how many values each has.
ATTRIBUTES = (len(COLOURS), len(SHAPES), len(SIZES), len(COLOURS), *(len(_STEPS) + 1,) * 4, len(COLOURS) + 1)
# How much reading each of them counts: forms are small, and are learned long after colours.
ATTRIBUTE_WEIGHTS = (1.0, 3.0, *(1.0,) * (len(ATTRIBUTES) - 2))
GRID = 8  # cells of a picture's side
_ANY = -1  # of a reference: not said; of an object: it is absent


class Tables(NamedTuple):
    """What holds of N pictures.

    Attributes:
        objects: int8 `[N, 6, 3]`, each object's colour, shape and size by number; -1 where there is none.
        zones: int8 `[N, 3]`, each zone's colour by number; -1 where there is none.
        cells: int8 `[N, 6 + 3]`, which cell of an 8x8 grid over the picture shows the middle of each object and zone, row by
            row from its top left; -1 where none does.
        one, two, three: uint8 `[N, len(OF_ONE), 6]`, `[N, len(OF_TWO), 6, 6]` and `[N, len(OF_THREE), 6, 6, 6]`, the degree to
            which it holds of the objects: TRUE where it does, 0 of what is absent, and else the more the nearer it is.
        statements: bool `[N, len(STATEMENTS)]`, of built-in tasks.
        task: int8 `[N]`, 0 for a tabletop, 1 for a built-in task.
    """

    objects: np.ndarray
    zones: np.ndarray
    cells: np.ndarray
    one: np.ndarray
    two: np.ndarray
    three: np.ndarray
    statements: np.ndarray
    task: np.ndarray

    def of(self, rows) -> Tables:
        """Some of the pictures."""
        return Tables(*(array[rows] for array in self))


def empty_tables(count: int) -> Tables:
    """Of pictures of which nothing holds yet."""
    most = MAX_OBJECTS
    return Tables(
        np.full((count, most, 3), _ANY, np.int8),
        np.full((count, MAX_ZONES), _ANY, np.int8),
        np.full((count, most + MAX_ZONES), _ANY, np.int8),
        np.zeros((count, len(OF_ONE), most), np.uint8),
        np.zeros((count, len(OF_TWO), most, most), np.uint8),
        np.zeros((count, len(OF_THREE), most, most, most), np.uint8),
        np.zeros((count, len(STATEMENTS)), bool),
        np.zeros(count, np.int8),
    )


def enter_scene(tables: Tables, row: int, scene: Scene) -> None:
    """Write what holds of a tabletop."""
    things = scene.objects
    for i, zone in enumerate(scene.zones):
        tables.zones[row, i] = _COLOURS.index(zone.colour)
    for i, thing in enumerate(things):
        tables.objects[row, i] = _numbers(thing.colour, thing.shape, thing.size)
        for place, (relation, value) in enumerate(OF_ONE):
            tables.one[row, place, i] = _degree(relation, scene, value, thing)
    for place, relation in enumerate(OF_TWO):
        for i, j in itertools.permutations(range(len(things)), 2):
            tables.two[row, place, i, j] = _degree(relation, scene, None, things[i], things[j])
    for place, relation in enumerate(OF_THREE):
        for chosen in itertools.combinations(range(len(things)), 3):
            degree = _degree(relation, scene, None, *(things[i] for i in chosen))
            for order in itertools.permutations(chosen):
                tables.three[(row, place, *order)] = degree


def _degree(relation: str, scene: Scene, value: str | None, *things: Object) -> int:
    """As in `Tables.one`: of a fact by how far it is from holding, of an instruction by its progress."""
    fact = KINDS[relation][1] if relation in KINDS else relation
    missing = MISSING[fact](scene, value, *things)
    if missing <= 0:
        return TRUE
    if math.isinf(missing):
        return 0
    near = progress(relation, scene, list(things), value) if relation in KINDS else _HALF / (_HALF + missing)
    return round(_ALMOST * near * TRUE)


def enter_task(tables: Tables, row: int, task: str, env) -> None:
    """Write what holds of a built-in task, `env` unwrapped, as its joints stand."""
    tables.task[row] = 1
    for place, statement in enumerate(STATEMENTS):
        tables.statements[row, place] = statement.task == task and statement.true(env)


def _numbers(colour: str | None, shape: str | None, size: str | None) -> tuple[int, int, int]:
    return tuple(
        _ANY if name is None else names.index(name)
        for name, names in ((colour, _COLOURS), (shape, _SHAPES), (size, _SIZES))
    )


def attributes(tables: Tables) -> np.ndarray:
    """What is where `tables.cells` are: int8 `[N, 6 + 3, 9]`, -1 for what a part does not have. An object's colour, shape and
    size and a zone's colour by number; of an object how near it is to the tool, to being lifted and to another object, and
    how far from one; and the colour of the zone that it is in, or the number after the last for none."""
    values = np.full((*tables.cells.shape, len(ATTRIBUTES)), _ANY, np.int8)
    values[:, :MAX_OBJECTS, :3] = tables.objects
    values[:, MAX_OBJECTS:, 3] = tables.zones
    related = np.stack(
        [
            *(tables.one[:, OF_ONE.index((relation, None))] for relation in ("reach", "lift")),
            *(tables.two[:, OF_TWO.index(relation)].max(-1) for relation in ("next_to", "far_apart")),
        ],
        -1,
    )
    values[:, :MAX_OBJECTS, 4:8] = np.searchsorted(_STEPS, related)
    zones = [OF_ONE.index(("in_zone", colour)) for colour in COLOURS]
    inside = tables.one[:, zones] == TRUE
    values[:, :MAX_OBJECTS, 8] = np.where(inside.any(1), inside.argmax(1), len(COLOURS))
    values[:, :MAX_OBJECTS, 4:][tables.objects[..., 0] == _ANY] = _ANY
    return values


def truth(asked: Sequence[Claims], tables: Tables) -> tuple[np.ndarray, np.ndarray]:
    """What is true of which pictures: bool `[N, S]`, whether all that a sentence claims holds; and bool `[N, S]`, whether
    that is known, as `degrees` says."""
    degree, known = degrees(asked, tables)
    return degree == 1, known


def degrees(asked: Sequence[Claims], tables: Tables) -> tuple[np.ndarray, np.ndarray]:
    """How true it is of which pictures.

    Args:
        asked: sentences, each of one or more claims.

    Returns:
        float32 `[N, S]`, 1 where all of a sentence holds, else the degree of what holds least; and bool `[N, S]`, whether it
        is known: of what a built-in task shows, the tabletop's words say nothing.
    """
    parts = [_as_fact(part) for sentence in asked for part in sentence]
    degree = np.zeros((len(parts), len(tables.task)), np.uint8)
    known = np.ones(degree.shape, bool)
    kinds = [_kind(part) for part in parts]
    for kind, answer in _ANSWERS.items():
        chosen = [place for place, of in enumerate(kinds) if of == kind]
        if chosen:
            degree[chosen] = answer([parts[place] for place in chosen], tables)
            if kind != "statement":
                known[chosen] = tables.task == 0
    starts = np.cumsum([0, *(len(sentence) for sentence in asked)])[:-1]
    least = np.minimum.reduceat(degree, starts).T
    return least.astype(np.float32) / TRUE, np.logical_and.reduceat(known, starts).T


def _as_fact(claim: Fact | Instruction | int) -> Fact | int:
    return Fact(*claim) if isinstance(claim, Instruction) else claim


def _kind(part: Fact | int) -> str:
    if not isinstance(part, Fact):
        return "statement"
    return part.relation if part.relation in ("count", "zone") else ("", "one", "two", "three")[len(part.subjects)]


def _meant(facts: list[Fact], which: int, tables: Tables) -> np.ndarray:
    """Which objects a subject may mean: bool `[F, N, 6]`."""
    said = np.array([_numbers(*fact.subjects[which]) for fact in facts], np.int8)[:, None, None]
    objects = tables.objects[None]
    return ((said == _ANY) | (said == objects)).all(-1) & (objects[..., 0] != _ANY)


def _of_statements(numbers: list[int], tables: Tables) -> np.ndarray:
    return TRUE * tables.statements[:, numbers].T.astype(np.uint8)


def _of_count(facts: list[Fact], tables: Tables) -> np.ndarray:
    present = (tables.objects[..., 0] != _ANY).sum(1)
    return TRUE * (present[None] == np.array([fact.value for fact in facts])[:, None])


def _of_zones(facts: list[Fact], tables: Tables) -> np.ndarray:
    colours = np.array([_COLOURS.index(fact.value) for fact in facts])
    return TRUE * (tables.zones[None] == colours[:, None, None]).any(-1)


def _of_one(facts: list[Fact], tables: Tables) -> np.ndarray:
    places = [OF_ONE.index((fact.relation, fact.value)) for fact in facts]
    return (_meant(facts, 0, tables) * tables.one[:, places].swapaxes(0, 1)).max(-1)


def _of_two(facts: list[Fact], tables: Tables) -> np.ndarray:
    related = tables.two[:, [OF_TWO.index(fact.relation) for fact in facts]].swapaxes(0, 1)
    a, b = (_meant(facts, which, tables) for which in (0, 1))
    return (related * (a[..., None] & b[..., None, :])).max((-1, -2))


def _of_three(facts: list[Fact], tables: Tables) -> np.ndarray:
    a, b, c = (_meant(facts, which, tables) for which in (0, 1, 2))
    together = a[..., None, None] & b[..., None, :, None] & c[..., None, None, :]
    related = tables.three[:, [OF_THREE.index(fact.relation) for fact in facts]].swapaxes(0, 1)
    return (together * related).max((-1, -2, -3))


_ANSWERS = {
    "statement": _of_statements,
    "count": _of_count,
    "zone": _of_zones,
    "one": _of_one,
    "two": _of_two,
    "three": _of_three,
}
