"""What an encoder is told of training pictures, so that it does not learn which combinations there never are.

Some combinations of colour and shape are in no training picture. Told all that is true, an encoder learns of what shape a thing
of some colour never is, and denies it of one that is. So nothing says of a thing that it is not of a shape which is held out with
its colour; what is said about shapes alone counts so that colours give no answer away; and of recoloured pictures nothing is said
about colours.
"""

from __future__ import annotations

import numpy as np

from envs.captions.codes import HELD_OUT, QUESTIONS, RELATIONS, Codes
from envs.captions.truth import ATTRIBUTES, Claims, Tables
from envs.tabletop.facts import Fact
from envs.tabletop.instructions import Instruction
from envs.tabletop.vocabulary import COLOURS, SHAPES

_COLOUR, _SHAPE, _ZONE, _INSIDE = 0, 1, 3, 8  # places in `envs.captions.truth.ATTRIBUTES`
_NOT_SAID = -1


def names_colour(claims: Claims) -> bool:
    """A sentence that says this names a colour."""
    return any(
        value in COLOURS or any(subject.colour for subject in subjects) for _, subjects, value in _of_tabletops(claims)
    )


def shapes_alone(claims: Claims) -> list[int]:
    """The shapes, by number, by which a sentence that says this names things, without their colours."""
    named = (subject for _, subjects, _ in _of_tabletops(claims) for subject in subjects)
    return [SHAPES.index(subject.shape) for subject in named if subject.shape and not subject.colour]


def _of_tabletops(claims: Claims) -> list:
    return [claim for claim in claims if isinstance(claim, (Fact, Instruction))]


def _shape_matrix(sentences) -> np.ndarray:
    """Bool `[S, shapes]`: whether a sentence names things by that shape alone."""
    named = np.zeros((len(sentences), len(SHAPES)), bool)
    for row, claims in zip(named, sentences):
        row[shapes_alone(claims)] = True
    return named


_ASKS_COLOUR = np.array([names_colour(question) for question in QUESTIONS])
_ASKS_SHAPES = _shape_matrix(QUESTIONS)
_OF_COLOUR = np.array([name == "exists" or value in COLOURS for name, value in RELATIONS])


def denials(tables: Tables) -> np.ndarray:
    """How much it counts that a picture shows no thing of a shape, float32 `[N, shapes]`, beside 1 where it shows one.

    Of a picture's n things, k have colours with which the shape is held out. Each of the others has it with the chance p = 1/4;
    so it is missing with (1 - p)^(n - k), and seldom where k is small: the colours alone would tell. With the weight

        (1 - p)^k (1 - (1 - p)^(n - k)) / (1 - (1 - p)^n)

    of the pictures that lack it, it is missing as often whatever the colours are.
    """
    colours = tables.objects[..., _COLOUR].astype(int)
    there = colours >= 0
    things = there.sum(1)[:, None]
    barred = (HELD_OUT[colours] & there[..., None]).sum(1)
    missing = 1 - 1 / (len(SHAPES) - 1)
    odds = (1 - missing ** (things - barred)) / np.maximum(1 - missing**things, 1e-9)
    return np.where(things > 0, missing**barred * odds, 1.0).astype(np.float32)


def told_attributes(values: np.ndarray, recoloured: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of `envs.captions.truth.attributes` `[N, P, attributes]`, what is told of pictures that are `recoloured [N]` and of
    others: the rest is -1; and bool `[N, P, sum(ATTRIBUTES)]`, from which values a part is not told apart."""
    values = values.copy()
    values[np.ix_(recoloured, range(values.shape[1]), (_COLOUR, _ZONE, _INSIDE))] = _NOT_SAID
    excluded = np.zeros((*values.shape[:2], sum(ATTRIBUTES)), bool)
    first, colours = sum(ATTRIBUTES[:_SHAPE]), values[..., _COLOUR].astype(int)
    excluded[..., first : first + len(SHAPES)] = HELD_OUT[colours] & (colours >= 0)[..., None]
    return values, excluded


def told_labels(degree: np.ndarray, weight: np.ndarray, tables: Tables, recoloured: np.ndarray) -> np.ndarray:
    """Of the answers and weights, `[N, LABELS]` each, of `envs.captions.codes.labels`: what they count."""
    return weight * _told(degree, _ASKS_COLOUR, _ASKS_SHAPES, tables, recoloured)


def told_sentences(
    degree: np.ndarray, known: np.ndarray, sentences: list[Claims], tables: Tables, recoloured: np.ndarray
) -> np.ndarray:
    """How much each pair of a picture and a sentence counts, float32 `[N, S]`, of which `degree [N, S]` of truth is `known`."""
    by_colour = np.array([names_colour(claims) for claims in sentences])
    return known * _told(degree, by_colour, _shape_matrix(sentences), tables, recoloured)


def _told(degree, by_colour: np.ndarray, by_shape: np.ndarray, tables: Tables, recoloured: np.ndarray) -> np.ndarray:
    """Float32 `[N, S]`, for sentences that name colours `[S]`, and things by shapes alone `[S, shapes]`."""
    denied = np.exp(np.log(np.maximum(denials(tables), 1e-9)) @ by_shape.T.astype(np.float32))
    plain = degree + (1 - degree) * denied
    return np.where(recoloured[:, None], ~by_colour, plain).astype(np.float32)


def told_codes(codes: Codes, tables: Tables, recoloured: np.ndarray, rng: np.random.Generator) -> Codes:
    """Of facts as numbers, those that can be told: of recoloured pictures without zones, and of things whose shape and size
    no other thing has, by these alone; of other pictures, what denies a shape as often as it counts."""
    changed = recoloured[codes.picture]
    subjects = codes.subjects.copy()
    subjects[changed, :, _COLOUR] = _NOT_SAID
    objects = tables.objects.astype(int)[codes.picture]  # [F, 6, 3]
    same = (subjects[:, :, None] == objects[:, None]) | (subjects[:, :, None] == _NOT_SAID)
    one = (same.all(-1) & (objects[:, None, :, _COLOUR] >= 0)).sum(-1) == 1
    unused = (codes.subjects == _NOT_SAID).all(-1)
    colour, shape = subjects[:, 0, _COLOUR], subjects[:, 0, _SHAPE]
    by_shape = (colour == _NOT_SAID) & (shape != _NOT_SAID)
    share = np.where(by_shape, codes.degree + (1 - codes.degree) * denials(tables)[codes.picture, shape], 1.0)
    told = np.where(changed, ~_OF_COLOUR[codes.relation] & (one | unused).all(-1), rng.random(len(share)) < share)
    return Codes(codes.picture[told], codes.relation[told], subjects[told], codes.degree[told])
