"""Recoloured pictures: forms stay, and nothing is told by which a colour would give a shape away."""

from __future__ import annotations

import numpy as np
import pytest

from envs.captions.codes import QUESTIONS, RELATIONS, draw_codes, labels
from envs.captions.recolouring import (
    names_colour,
    names_shape_alone,
    recolour,
    told_attributes,
    told_codes,
    told_labels,
    told_sentences,
)
from envs.captions.speaking import possible_claims, true_claims
from envs.captions.truth import OF_TWO, TRUE, attributes, empty_tables, enter_scene
from envs.tabletop.scene import TOOLS, draw
from envs.tabletop.vocabulary import COLOURS

COUNT = 40


@pytest.fixture(scope="module")
def tables():
    rng = np.random.default_rng(0)
    tables = empty_tables(COUNT)
    for row in range(COUNT):
        enter_scene(tables, row, draw(rng, tool=TOOLS[row % 2]))
    return tables


def test_hues_turn_and_forms_stay():
    rng = np.random.default_rng(0)
    pictures = np.zeros((50, 8, 8, 3), np.uint8)
    pictures[:, :, 4:] = 255 * np.array(COLOURS["red"])  # a red half, a black half
    changed = recolour(pictures, rng)
    assert changed.shape == pictures.shape and changed.dtype == np.uint8 and not pictures[:, :, :4].any()
    assert not changed[:, :, :4].any() and (changed[:, :, 4:] == changed[:, :1, 4:5]).all()
    assert len(np.unique(changed[:, 0, 4], axis=0)) > 45 and changed[:, 0, 4].max(1).min() > 30
    greyness = np.ptp(changed[:, 0, 4].astype(int), axis=1)
    assert greyness.min() < 30 and greyness.max() > 100
    assert np.array_equal(recolour(pictures, np.random.default_rng(0)), changed)


def test_a_part_is_asked_for_its_shape_or_for_its_colour(tables):
    recoloured = np.arange(COUNT) % 2 == 0
    values = attributes(tables)
    told = told_attributes(values, recoloured)
    assert (told[recoloured][..., [0, 3, 8]] == -1).all() and (told[~recoloured][..., 1] == -1).all()
    assert np.array_equal(told[recoloured][..., 1:3], values[recoloured][..., 1:3])
    assert np.array_equal(told[~recoloured][..., [0, 3, 8]], values[~recoloured][..., [0, 3, 8]])
    assert np.array_equal(told[..., 4:8], values[..., 4:8])


def test_no_question_about_a_shape_alone_is_answered_where_colours_are_as_drawn(tables):
    recoloured = np.arange(COUNT) % 2 == 0
    _, weight = labels(tables)
    told = told_labels(weight, recoloured)
    by_colour, by_shape = (
        [i for i, question in enumerate(QUESTIONS) if names(question)] for names in (names_colour, names_shape_alone)
    )
    assert len(by_colour) > 300 and len(by_shape) > 40 and not set(by_colour) & set(by_shape)
    assert not told[recoloured][:, by_colour].any() and not told[~recoloured][:, by_shape].any()
    assert told[recoloured][:, by_shape].any() and told[~recoloured][:, by_colour].any()
    others = [i for i in range(len(QUESTIONS)) if i not in {*by_colour, *by_shape}]
    assert np.array_equal(told[:, others], weight[:, others]) and weight[:, others].any()


def test_sentences_are_told_where_they_can_be(tables):
    rng = np.random.default_rng(1)
    recoloured = np.arange(COUNT) % 2 == 0
    sentences = [make(tables, row, rng) for make in (true_claims, possible_claims) for row in range(COUNT)]
    told = told_sentences(np.ones((COUNT, len(sentences)), bool), sentences, recoloured)
    for place, claims in enumerate(sentences):
        assert (told[recoloured, place] == (not names_colour(claims))).all()
        assert (told[~recoloured, place] == (not names_shape_alone(claims))).all()
    assert told[recoloured].any() and told[~recoloured].mean() > 0.7


def test_facts_of_recoloured_pictures_are_still_true_and_name_one_thing(tables):
    recoloured = np.arange(COUNT) % 2 == 0
    codes = draw_codes(tables, 40, np.random.default_rng(2))
    told = told_codes(codes, tables, recoloured)
    plain = ~recoloured[told.picture]
    assert plain.sum() == (~recoloured[codes.picture]).sum() and 50 < (~plain).sum() < plain.sum()
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
