"""Facts as numbers: many of a picture at once, true ones and false ones, without their sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from envs.captions.statements import STATEMENTS
from envs.captions.truth import OF_ONE, OF_THREE, OF_TWO, TRUE, Claims, Tables
from envs.tabletop.facts import Fact
from envs.tabletop.instructions import Instruction
from envs.tabletop.scene import MAX_OBJECTS
from envs.tabletop.vocabulary import COLOURS, HELD_OUT_COMBINATIONS, SHAPES, SIZES

RELATIONS = (*OF_ONE, *((relation, None) for relation in (*OF_TWO, *OF_THREE)))
SUBJECTS = 3  # of a fact, at most
NAMED_BY = (len(COLOURS), len(SHAPES), len(SIZES))  # what a subject is called by: how many values each has
COUNTS = MAX_OBJECTS + 1
LABELS = len(COLOURS) + COUNTS + len(STATEMENTS)  # of `labels`
_NOT_SAID = -1
_TRIES = 16  # to find a fact that is true, or false, as was drawn
_SIZE_SAID = 0.15  # of names that need no size
_OTHER_NAME, _IN_PART = 0.5, 0.4  # of `exists`: a word exchanged, a word left out
_HELD_OUT = np.zeros((len(COLOURS), len(SHAPES)), bool)
for _colour, _shape in HELD_OUT_COMBINATIONS:
    _HELD_OUT[tuple(COLOURS).index(_colour), SHAPES.index(_shape)] = True


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
    known[exists] = ~((told[:, :2] >= 0).all(1) & _HELD_OUT[told[:, 0], told[:, 1]])
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
    """What holds of each picture as a whole: bool `[N, LABELS]`, which colours its zones have, how many objects there are
    and which of STATEMENTS are true; and bool `[N, LABELS]`, whether it is asked: of tabletops the first two, of a task what
    can be said of it."""
    tabletop = (tables.task == 0)[:, None]
    tasks = [statement.task for statement in STATEMENTS]
    shown = np.stack(
        [tables.statements[:, tasks.index(task)] for task in tasks], 1
    )  # a task's first is always true of it
    zones = (tables.zones[..., None] == np.arange(len(COLOURS))).any(1)
    counts = tabletop & ((tables.objects[..., 0] >= 0).sum(1)[:, None] == np.arange(COUNTS))
    known = np.broadcast_to(tabletop, (len(tabletop), len(COLOURS) + COUNTS))
    return (
        np.concatenate([zones, counts, tables.statements], 1),
        np.concatenate([known, shown], 1),
    )


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
