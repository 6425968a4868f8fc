"""Facts as numbers: many of a picture at once, true ones and false ones, without their sentences."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from envs.captions.statements import STATEMENTS
from envs.captions.truth import OF_ONE, OF_THREE, OF_TWO, TRUE, Claims, Tables, degrees
from envs.tabletop.facts import PLACES, Fact
from envs.tabletop.instructions import Instruction
from envs.tabletop.scene import MAX_OBJECTS
from envs.tabletop.vocabulary import COLOURS, HELD_OUT_COMBINATIONS, SHAPES, SIZES, Reference

RELATIONS = (*OF_ONE, *((relation, None) for relation in (*OF_TWO, *OF_THREE)))
SUBJECTS = 3  # of a fact, at most
NAMED_BY = (len(COLOURS), len(SHAPES), len(SIZES))  # what a subject is called by: how many values each has
_NOT_SAID = -1
_TRIES = 16  # to find a fact that is true, or false, as was drawn
_SIZE_SAID = 0.15  # of names that need no size
_OTHER_NAME, _IN_PART = 0.5, 0.4  # of `exists`: a word exchanged, a word left out
HELD_OUT = np.zeros((len(COLOURS), len(SHAPES)), bool)  # which combinations are
for _colour, _shape in HELD_OUT_COMBINATIONS:
    HELD_OUT[tuple(COLOURS).index(_colour), SHAPES.index(_shape)] = True


def _questions() -> tuple[Claims, ...]:
    """What can be asked of any picture: how many objects there are, which zones and which objects, where those of one colour
    are, to each other, to the tool and to the zones, where those of one shape are, and STATEMENTS."""
    by_colour, by_shape = [Reference(colour) for colour in COLOURS], [Reference(None, shape) for shape in SHAPES]
    facts: list[Fact | Instruction] = [Fact("count", (), number) for number in range(1, MAX_OBJECTS + 1)]
    facts += [Fact("zone", (), colour) for colour in COLOURS]
    facts += [
        Fact("exists", (Reference(colour, shape),))
        for colour, shape in itertools.product(COLOURS, SHAPES)
        if (colour, shape) not in HELD_OUT_COMBINATIONS
    ]
    facts += [Fact("exists", (Reference(None, shape, size),)) for shape, size in itertools.product(SHAPES, SIZES)]
    facts += [Fact("at", (some,), place) for some in (*by_colour, *by_shape) for place in PLACES]
    facts += [Fact(relation, (some,)) for some in by_colour for relation in ("tool_touches", "tool_near", "lifted")]
    facts += [Instruction("reach", (some,)) for some in (*by_colour, *by_shape)]
    facts += [Fact("in_zone", (some,), colour) for some in by_colour for colour in COLOURS]
    facts += [Fact(side, pair) for pair in itertools.permutations(by_colour, 2) for side in ("left_of", "above")]
    facts += [
        Fact(relation, pair)
        for pair in itertools.combinations(by_colour, 2)
        for relation in ("touching", "next_to", "far_apart")
    ]
    return (*((fact,) for fact in facts), *((number,) for number in range(len(STATEMENTS))))


QUESTIONS = _questions()
LABELS = len(QUESTIONS)  # of `labels`
_SELDOM = 0.1  # what a question counts about what is not there


class Codes(NamedTuple):
    """F facts, each about one picture.

    Attributes:
        picture: int `[F]`, which.
        relation: int `[F]`, of RELATIONS.
        subjects: int `[F, 3, 3]`, the colour, shape and size by which each subject is called; -1 for what is not said.
        degree: float32 `[F]`, 1 where it holds, else less, as in `envs.captions.truth.degrees`.
    """

    picture: np.ndarray
    relation: np.ndarray
    subjects: np.ndarray
    degree: np.ndarray


def draw_codes(tables: Tables, count: int, rng: np.random.Generator) -> Codes:
    """About `count` facts of each tabletop, on its own objects, each kind of relation as often and half of them true where
    that can be; held-out combinations of colour and shape are in none."""
    objects, present = tables.objects.astype(int), tables.objects[..., 0] >= 0
    picture = np.repeat(np.flatnonzero(present.sum(1) >= 2), count)
    places = _places()
    kind = rng.integers(len(places), size=len(picture))
    keys = rng.random((len(picture), _TRIES, MAX_OBJECTS)) + ~present[picture][:, None]
    chosen = keys.argsort(-1)[..., :SUBJECTS]
    relation = np.zeros((len(picture), _TRIES), int)
    degree = np.zeros((len(picture), _TRIES), np.uint8)
    needed = np.ones(len(picture), int)
    for number, (taken, options) in enumerate(places):
        rows = np.flatnonzero(kind == number)
        relation[rows] = options[rng.integers(len(options), size=(len(rows), _TRIES))]
        degree[rows] = _degrees(tables, picture[rows, None], relation[rows], chosen[rows], taken)
        needed[rows] = taken
    wanted = (degree == TRUE) == (rng.random(len(picture)) < 0.5)[:, None]
    pick, rows = wanted.argmax(1), np.arange(len(picture))
    relation, degree, chosen = relation[rows, pick], degree[rows, pick], chosen[rows, pick]
    subjects, clear = _named(objects, present, picture, chosen, rng)
    unused = np.arange(SUBJECTS) >= needed[:, None]
    subjects[unused] = _NOT_SAID
    known = (clear | unused).all(1) & (present[picture].sum(1) >= needed)
    exists = np.flatnonzero(relation == 0)
    _rename(subjects, exists, rng)
    told = subjects[exists, 0]
    same = (told[:, None] == _NOT_SAID) | (told[:, None] == objects[picture[exists]])
    degree[exists] = TRUE * (same.all(-1) & present[picture[exists]]).any(1)
    known[exists] = ~((told[:, :2] >= 0).all(1) & HELD_OUT[told[:, 0], told[:, 1]])
    return Codes(picture[known], relation[known], subjects[known], degree[known].astype(np.float32) / TRUE)


def codes_of(sentences: Sequence[Claims]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the sentences that claim one of RELATIONS: their numbers, int `[M]`, and `relation` and `subjects` of it, as
    in `Codes`."""
    numbers, relations, subjects = [], [], []
    for number, (first, *more) in enumerate(sentences):
        if more or not isinstance(first, (Fact, Instruction)):
            continue
        relation, said, value = first
        if (relation, value) in RELATIONS:
            called = np.full((SUBJECTS, len(NAMED_BY)), _NOT_SAID)
            for place, subject in enumerate(said):
                called[place] = [
                    _NOT_SAID if word is None else tuple(words).index(word)
                    for word, words in zip(subject, (COLOURS, SHAPES, SIZES), strict=True)
                ]
            numbers.append(number)
            relations.append(RELATIONS.index((relation, value)))
            subjects.append(called)
    return (
        np.array(numbers, int),
        np.array(relations, int),
        np.array(subjects, int).reshape(-1, SUBJECTS, len(NAMED_BY)),
    )


def labels(tables: Tables) -> tuple[np.ndarray, np.ndarray]:
    """The answers to QUESTIONS: float32 `[N, LABELS]`, the degree to which each holds; and float32 `[N, LABELS]`, how much it
    counts: of a task what can be said of it, of a tabletop the rest, and little where what is named is not there."""
    degree, _ = degrees(QUESTIONS, tables)
    tasks = [statement.task for statement in STATEMENTS]
    shown = np.stack(
        [tables.statements[:, tasks.index(task)] for task in tasks], 1
    )  # a task's first is always true of it
    there = np.ones((len(tables.task), LABELS - len(STATEMENTS)), np.float32)
    for number, (claim,) in enumerate(QUESTIONS[: there.shape[1]]):
        if claim[0] not in ("count", "zone", "exists"):
            for subject in claim[1]:
                there[~_shows(subject, tables), number] = _SELDOM
    there[tables.task != 0] = 0.0
    return degree, np.concatenate([there, shown.astype(np.float32)], 1)


def _shows(subject: Reference, tables: Tables) -> np.ndarray:
    """Which pictures show an object that is called by its colour or by its shape alone: bool `[N]`."""
    kind, number = (0, tuple(COLOURS).index(subject.colour)) if subject.colour else (1, SHAPES.index(subject.shape))
    return (tables.objects[..., kind] == number).any(1)


def _places() -> list[tuple[int, np.ndarray]]:
    """For each kind of relation, of how many objects it is and its numbers in RELATIONS."""
    names = [name for name, _ in RELATIONS]
    taken = {**dict.fromkeys(OF_TWO, 2), **dict.fromkeys(OF_THREE, 3)}
    return [(taken.get(name, 1), np.flatnonzero([other == name for other in names])) for name in dict.fromkeys(names)]


def _degrees(tables: Tables, picture: np.ndarray, relation: np.ndarray, chosen: np.ndarray, taken: int) -> np.ndarray:
    """The degree to which the relations `[R, T]` hold of the chosen objects `[R, T, 3]`."""
    a, b, c = np.moveaxis(chosen, -1, 0)
    if taken == 1:
        return tables.one[picture, relation, a]
    if taken == 2:
        return tables.two[picture, relation - len(OF_ONE), a, b]
    return tables.three[picture, relation - len(OF_ONE) - len(OF_TWO), a, b, c]


def _named(objects, present, picture, chosen, rng) -> tuple[np.ndarray, np.ndarray]:
    """What to call the chosen objects `[F, 3]`: `[F, 3, 3]`, mostly without the size where it is not needed; and whether
    that means one object only, `[F, 3]`."""
    subjects = objects[picture[:, None], chosen]
    same = (subjects[:, :, None] == objects[picture][:, None]) & present[picture][:, None, :, None]
    by_two, by_three = (same[..., :words].all(-1).sum(-1) == 1 for words in (2, 3))
    subjects[..., 2][by_two & (rng.random(by_two.shape) >= _SIZE_SAID)] = _NOT_SAID
    return subjects, by_three


def _rename(subjects: np.ndarray, rows: np.ndarray, rng: np.random.Generator) -> None:
    """Exchange or leave out a word of the first subject of some of the rows."""
    for share, value in ((_OTHER_NAME, None), (_IN_PART, _NOT_SAID)):
        some = rows[rng.random(len(rows)) < share]
        which = rng.integers(2, size=len(some))
        new = rng.integers(np.array(NAMED_BY)[which]) if value is None else value
        subjects[some, 0, which] = new
