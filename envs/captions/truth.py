"""Which sentences are true of which pictures: the facts of many scenes as arrays, asked all at once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from envs.captions.statements import STATEMENTS
from envs.tabletop.facts import PLACES, RELATIONS, Fact
from envs.tabletop.scene import MAX_OBJECTS, MAX_ZONES, Scene
from envs.tabletop.vocabulary import COLOURS, SHAPES, SIZES

OF_ONE = (
    ("exists", None),
    *(("at", place) for place in PLACES),
    *(("in_zone", colour) for colour in COLOURS),
    *((relation, None) for relation in ("lifted", "tool_touches", "tool_near")),
)
OF_TWO = ("left_of", "right_of", "above", "below", "next_to", "touching", "far_apart")
_COLOURS, _SHAPES, _SIZES = (tuple(names) for names in (COLOURS, SHAPES, SIZES))
ATTRIBUTES = (len(COLOURS), len(SHAPES), len(SIZES), len(COLOURS))  # of `attributes`: how many values each has
GRID = 8  # cells of a picture's side
_ANY = -1  # of a reference: not said; of an object: it is absent


class Tables(NamedTuple):
    """What holds of N pictures.

    Attributes:
        objects: int8 `[N, 6, 3]`, each object's colour, shape and size by number; -1 where there is none.
        zones: int8 `[N, 3]`, each zone's colour by number; -1 where there is none.
        cells: int8 `[N, 6 + 3]`, which cell of an 8x8 grid over the picture shows the middle of each object and zone, row by
            row from its top left; -1 where none does.
        one: bool `[N, len(OF_ONE), 6]`.
        two: bool `[N, len(OF_TWO), 6, 6]`.
        lined_up: bool `[N, 6, 6, 6]`.
        statements: bool `[N, len(STATEMENTS)]`, of built-in tasks.
        task: int8 `[N]`, 0 for a tabletop, 1 for a built-in task.
    """

    objects: np.ndarray
    zones: np.ndarray
    cells: np.ndarray
    one: np.ndarray
    two: np.ndarray
    lined_up: np.ndarray
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
        np.zeros((count, len(OF_ONE), most), bool),
        np.zeros((count, len(OF_TWO), most, most), bool),
        np.zeros((count, most, most, most), bool),
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
            tables.one[row, place, i] = RELATIONS[relation](scene, value, thing)
    for i, j in itertools.permutations(range(len(things)), 2):
        for place, relation in enumerate(OF_TWO):
            tables.two[row, place, i, j] = RELATIONS[relation](scene, None, things[i], things[j])
    for chosen in itertools.combinations(range(len(things)), 3):
        if RELATIONS["lined_up"](scene, None, *(things[i] for i in chosen)):
            for order in itertools.permutations(chosen):
                tables.lined_up[(row, *order)] = True


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
    """What is where `tables.cells` are: int8 `[N, 6 + 3, 4]`, an object's colour, shape and size and a zone's colour by
    number; -1 for what a part does not have."""
    values = np.full((*tables.cells.shape, len(ATTRIBUTES)), _ANY, np.int8)
    values[:, :MAX_OBJECTS, :3] = tables.objects
    values[:, MAX_OBJECTS:, 3] = tables.zones
    return values


def truth(asked: Sequence[tuple[Fact | int, ...]], tables: Tables) -> tuple[np.ndarray, np.ndarray]:
    """What is true of which pictures.

    Args:
        asked: sentences, each of one or more facts of a tabletop or numbers of `STATEMENTS`, all of which it claims.

    Returns:
        bool `[N, S]`, whether all of it holds; and bool `[N, S]`, whether that is known: of what a built-in task shows,
        the tabletop's words say nothing.
    """
    parts = [part for sentence in asked for part in sentence]
    holds = np.zeros((len(parts), len(tables.task)), bool)
    known = np.ones_like(holds)
    kinds = [_kind(part) for part in parts]
    for kind, answer in _ANSWERS.items():
        chosen = [place for place, of in enumerate(kinds) if of == kind]
        if chosen:
            holds[chosen] = answer([parts[place] for place in chosen], tables)
            if kind != "statement":
                known[chosen] = tables.task == 0
    starts = np.cumsum([0, *(len(sentence) for sentence in asked)])[:-1]
    return np.logical_and.reduceat(holds, starts).T, np.logical_and.reduceat(known, starts).T


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
    return tables.statements[:, numbers].T


def _of_count(facts: list[Fact], tables: Tables) -> np.ndarray:
    present = (tables.objects[..., 0] != _ANY).sum(1)
    return present[None] == np.array([fact.value for fact in facts])[:, None]


def _of_zones(facts: list[Fact], tables: Tables) -> np.ndarray:
    colours = np.array([_COLOURS.index(fact.value) for fact in facts])
    return (tables.zones[None] == colours[:, None, None]).any(-1)


def _of_one(facts: list[Fact], tables: Tables) -> np.ndarray:
    places = [OF_ONE.index((fact.relation, fact.value)) for fact in facts]
    return (_meant(facts, 0, tables) & tables.one[:, places].swapaxes(0, 1)).any(-1)


def _of_two(facts: list[Fact], tables: Tables) -> np.ndarray:
    related = tables.two[:, [OF_TWO.index(fact.relation) for fact in facts]].swapaxes(0, 1)
    a, b = (_meant(facts, which, tables) for which in (0, 1))
    return (related & a[..., None] & b[..., None, :]).any((-1, -2))


def _of_three(facts: list[Fact], tables: Tables) -> np.ndarray:
    a, b, c = (_meant(facts, which, tables) for which in (0, 1, 2))
    together = a[..., None, None] & b[..., None, :, None] & c[..., None, None, :]
    return (together & tables.lined_up[None]).any((-1, -2, -3))


_ANSWERS = {
    "statement": _of_statements,
    "count": _of_count,
    "zone": _of_zones,
    "one": _of_one,
    "two": _of_two,
    "three": _of_three,
}
