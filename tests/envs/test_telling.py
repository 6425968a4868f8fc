"""What is told of training pictures: all that is true, but nothing by which a colour would give a shape away."""

from __future__ import annotations

import numpy as np
import pytest

from envs.captions.codes import HELD_OUT, QUESTIONS, RELATIONS, draw_codes, labels
from envs.captions.speaking import possible_claims, true_claims
from envs.captions.telling import (
    barred_shapes,
    names_colour,
    shapes_alone,
    told_attributes,
    told_codes,
    told_labels,
    told_sentences,
)
from envs.captions.truth import OF_TWO, TRUE, attributes, empty_tables, enter_scene
from envs.tabletop.scene import TOOLS, draw
from envs.tabletop.vocabulary import COLOURS, HELD_OUT_COMBINATIONS, SHAPES

COUNT = 40
RECOLOURED = np.arange(COUNT) % 2 == 0


@pytest.fixture(scope="module")
def tables():
    rng = np.random.default_rng(0)
    tables = empty_tables(COUNT)
    for row in range(COUNT):
        enter_scene(tables, row, draw(rng, tool=TOOLS[row % 2]))
    return tables


def barred_in(tables, row: int) -> set[int]:
    """What `barred_shapes` says, from the words."""
    colours = [tuple(COLOURS)[number] for number in tables.objects[row, :, 0] if number >= 0]
    return {SHAPES.index(shape) for colour, shape in HELD_OUT_COMBINATIONS if colour in colours}


def test_a_shape_is_barred_by_the_colours_that_are_shown(tables):
    barred = barred_shapes(tables)
    assert [set(np.flatnonzero(row)) for row in barred] == [barred_in(tables, row) for row in range(COUNT)]
    assert barred.any() and not barred.all()


def test_a_part_is_not_told_apart_from_what_it_never_is(tables):
    values = attributes(tables)
    told, excluded = told_attributes(values, RECOLOURED)
    assert (told[RECOLOURED][..., [0, 3, 8]] == -1).all() and not excluded[RECOLOURED].any()
    assert np.array_equal(told[RECOLOURED][..., [1, 2, 4, 5, 6, 7]], values[RECOLOURED][..., [1, 2, 4, 5, 6, 7]])
    assert np.array_equal(told[~RECOLOURED], values[~RECOLOURED])
    shapes = slice(len(COLOURS), len(COLOURS) + len(SHAPES))
    there = ~RECOLOURED[:, None] & (values[..., 0] >= 0)
    assert np.array_equal(excluded[there][:, shapes], HELD_OUT[values[there][:, 0]])
    assert excluded.sum() == HELD_OUT[values[there][:, 0]].sum() > 0


def test_no_question_lets_a_shape_be_denied_where_it_is_barred(tables):
    _, weight = labels(tables)
    told = told_labels(weight, tables, RECOLOURED)
    for number, question in enumerate(QUESTIONS):
        for row in range(COUNT):
            kept = (
                not names_colour(question)
                if RECOLOURED[row]
                else not set(shapes_alone(question)) & barred_in(tables, row)
            )
            assert told[row, number] == (weight[row, number] if kept else 0)
    by_shape = [i for i, question in enumerate(QUESTIONS) if shapes_alone(question)]
    assert len(by_shape) > 40 and told[RECOLOURED][:, by_shape].any() and told[~RECOLOURED][:, by_shape].any()


def test_sentences_are_told_where_they_can_be(tables):
    rng = np.random.default_rng(1)
    sentences = [make(tables, row, rng) for make in (true_claims, possible_claims) for row in range(COUNT)]
    told = told_sentences(np.ones((COUNT, len(sentences)), bool), sentences, tables, RECOLOURED)
    for place, claims in enumerate(sentences):
        assert (told[RECOLOURED, place] == (not names_colour(claims))).all()
        kept = [not set(shapes_alone(claims)) & barred_in(tables, row) for row in range(COUNT)]
        assert np.array_equal(told[~RECOLOURED, place], np.array(kept)[~RECOLOURED])
    assert told[RECOLOURED].any() and told[~RECOLOURED].mean() > 0.7


def test_facts_of_recoloured_pictures_are_still_true_and_name_one_thing(tables):
    codes = draw_codes(tables, 40, np.random.default_rng(2))
    told = told_codes(codes, tables, RECOLOURED)
    plain = ~RECOLOURED[told.picture]
    assert 0.8 < plain.sum() / (~RECOLOURED[codes.picture]).sum() <= 1 and 50 < (~plain).sum() < plain.sum()
    names = {RELATIONS[number][0] for number in told.relation[~plain]}
    assert {"left_of", "at", "tool_near"} <= names and not names & {"exists", "in_zone", "push_to_zone"}
    for picture, relation, subjects, degree in zip(*(part[~plain] for part in told), strict=True):
        meant = []
        for colour, shape, size in subjects[(subjects >= 0).any(1)]:
            assert colour == -1
            objects = tables.objects[picture]
            fits = (objects[:, 1] == shape) & (objects[:, 2] == size if size >= 0 else True)
            assert fits.sum() == 1
            meant.append(int(fits.argmax()))
        name, _ = RELATIONS[relation]
        if name == "left_of":
            assert degree == pytest.approx(tables.two[picture, OF_TWO.index(name), meant[0], meant[1]] / TRUE)
