"""Pictures in colours that have no name, so that forms are learned apart from colours.

Some combinations of colour and shape are in no training picture. Whoever is asked for the shapes of things in their own colours
learns of what colour each shape never is, and denies it of a thing that is. So shapes are asked for where colours say nothing,
and colours where they are as drawn; both, in sentences and facts that name things by both.
"""

from __future__ import annotations

import numpy as np

from envs.captions.codes import QUESTIONS, RELATIONS, Codes
from envs.captions.truth import Claims, Tables
from envs.tabletop.facts import Fact
from envs.tabletop.instructions import Instruction
from envs.tabletop.vocabulary import COLOURS

_COLOUR, _SHAPE, _ZONE, _INSIDE = 0, 1, 3, 8  # places in `envs.captions.truth.ATTRIBUTES`
_NOT_SAID = -1
_GREY = np.array([0.299, 0.587, 0.114])
_LIGHTER = (0.8, 1.2)  # from and to, times as light


def recolour(pictures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn the hues of each picture, uint8 `[N, H, W, 3]`, by any angle, and take some or all of the colour out of it."""
    count = len(pictures)
    angle, saturation = rng.uniform(0, 2 * np.pi, count), rng.uniform(0, 1, count)
    axis = np.full(3, 3**-0.5)
    across = np.cross(np.eye(3), axis)
    turned = (
        np.cos(angle)[:, None, None] * np.eye(3)
        + np.sin(angle)[:, None, None] * across
        + (1 - np.cos(angle))[:, None, None] * np.outer(axis, axis)
    )
    grey = np.tile(_GREY, (3, 1))
    mixed = saturation[:, None, None] * turned + (1 - saturation)[:, None, None] * grey
    mixed = (mixed * rng.uniform(*_LIGHTER, count)[:, None, None]).astype(np.float32)
    flat = pictures.reshape(count, -1, 3).astype(np.float32) @ mixed.swapaxes(1, 2)
    return flat.clip(0, 255).round().astype(np.uint8).reshape(pictures.shape)


def names_colour(claims: Claims) -> bool:
    """A sentence that says any of this names a colour."""
    return any(_by_colour(claim) for claim in claims)


def names_shape_alone(claims: Claims) -> bool:
    """A sentence that says any of this names a thing by its shape and not by its colour."""
    return any(_by_shape_alone(claim) for claim in claims)


def _by_colour(claim) -> bool:
    if not isinstance(claim, (Fact, Instruction)):
        return False
    _, subjects, value = claim
    return value in COLOURS or any(subject.colour for subject in subjects)


def _by_shape_alone(claim) -> bool:
    if not isinstance(claim, (Fact, Instruction)):
        return False
    return any(subject.shape and not subject.colour for subject in claim[1])


_ASKS_COLOUR = np.array([names_colour(question) for question in QUESTIONS])
_ASKS_SHAPE = np.array([names_shape_alone(question) for question in QUESTIONS])
_OF_COLOUR = np.array([name == "exists" or value in COLOURS for name, value in RELATIONS])


def told_attributes(values: np.ndarray, recoloured: np.ndarray) -> np.ndarray:
    """Of `envs.captions.truth.attributes` `[N, P, attributes]`, what is told of pictures that are `recoloured [N]` and of
    others: the rest is -1."""
    values = values.copy()
    values[np.ix_(recoloured, range(values.shape[1]), (_COLOUR, _ZONE, _INSIDE))] = _NOT_SAID
    values[~recoloured, :, _SHAPE] = _NOT_SAID
    return values


def told_labels(weight: np.ndarray, recoloured: np.ndarray) -> np.ndarray:
    """Of the weights `[N, LABELS]` of `envs.captions.codes.labels`, what counts: the rest is 0."""
    return weight * ~np.where(recoloured[:, None], _ASKS_COLOUR, _ASKS_SHAPE)


def told_sentences(known: np.ndarray, sentences: list[Claims], recoloured: np.ndarray) -> np.ndarray:
    """Of what is known `[N, S]` of pictures and sentences, what is told."""
    colour, shape = (np.array([names(claims) for claims in sentences]) for names in (names_colour, names_shape_alone))
    return known & ~np.where(recoloured[:, None], colour, shape)


def told_codes(codes: Codes, tables: Tables, recoloured: np.ndarray) -> Codes:
    """Of facts as numbers, those that can be told: of recoloured pictures without zones, and of things whose shape and size
    no other thing has, by these alone."""
    changed = recoloured[codes.picture]
    subjects = codes.subjects.copy()
    subjects[changed, :, _COLOUR] = _NOT_SAID
    objects = tables.objects.astype(int)[codes.picture]  # [F, 6, 3]
    same = (subjects[:, :, None] == objects[:, None]) | (subjects[:, :, None] == _NOT_SAID)
    one = (same.all(-1) & (objects[:, None, :, _COLOUR] >= 0)).sum(-1) == 1
    unused = (codes.subjects == _NOT_SAID).all(-1)
    told = ~changed | (~_OF_COLOUR[codes.relation] & (one | unused).all(-1))
    return Codes(codes.picture[told], codes.relation[told], subjects[told], codes.degree[told])
