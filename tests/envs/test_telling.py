"""What is told of training pictures: all that is true, but nothing by which a colour would give a shape away."""

from __future__ import annotations

import numpy as np
import pytest

from envs.captions.codes import HELD_OUT, QUESTIONS, RELATIONS, draw_codes, labels
from envs.captions.speaking import possible_claims, true_claims
from envs.captions.telling import (
    denials,
    names_colour,
    shapes_alone,
    told_attributes,
    told_codes,
    told_labels,
    told_sentences,
)
from envs.captions.truth import OF_TWO, TRUE, attributes, degrees, empty_tables, enter_scene
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


def barred_in(tables, row: int) -> list[int]:
    """Of each thing in a picture, the shape that is held out with its colour, from the words."""
    colours = [tuple(COLOURS)[number] for number in tables.objects[row, :, 0] if number >= 0]
    return [SHAPES.index(shape) for colour in colours for held, shape in HELD_OUT_COMBINATIONS if held == colour]


def test_how_often_a_shape_is_missing_tells_nothing_of_the_colours(tables):
    """Counted over many pictures by their weights, it is as often missing where no colour bars it as where one or two do."""
    count, rng = 20_000, np.random.default_rng(3)
    objects = np.full((count, *tables.objects.shape[1:]), -1, tables.objects.dtype)
    free = np.argwhere(~HELD_OUT)
    objects[:, :4, :2] = free[rng.integers(len(free), size=(count, 4))]
    drawn = tables._replace(objects=objects)
    for shape in range(len(SHAPES)):
        shown = (objects[:, :4, 1] == shape).any(1)
        barred = HELD_OUT[objects[:, :4, 0].astype(int), shape].sum(1)
        weight = denials(drawn)[:, shape]
        missing = []
        for number in (0, 1, 2):
            these = barred == number
            if these.sum() > 1000:
                denied = weight[these & ~shown].sum()
                missing.append(denied / (denied + (these & shown).sum()))
        assert len(missing) >= 2 and np.ptp(missing) < 0.05, missing


def test_what_denies_a_shape_counts_less_the_more_colours_bar_it(tables):
    weight = denials(tables)
    for row in range(COUNT):
        barred = barred_in(tables, row)
        things = (tables.objects[row, :, 0] >= 0).sum()
        for shape in range(len(SHAPES)):
            k = barred.count(shape)
            assert weight[row, shape] == pytest.approx(
                0.75**k * (1 - 0.75 ** (things - k)) / (1 - 0.75**things), abs=1e-5
            )


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


def test_questions_about_shapes_alone_count_so_much(tables):
    answers, weight = labels(tables)
    told, denied = told_labels(answers, weight, tables, RECOLOURED), denials(tables)
    for number, question in enumerate(QUESTIONS):
        share = denied[:, shapes_alone(question)].prod(1)
        plain = answers[:, number] + (1 - answers[:, number]) * share
        expected = np.where(RECOLOURED, not names_colour(question), plain)
        assert np.allclose(told[:, number], weight[:, number] * expected, atol=1e-5)
    by_shape = [i for i, question in enumerate(QUESTIONS) if shapes_alone(question)]
    assert len(by_shape) > 40 and told[RECOLOURED][:, by_shape].any() and told[~RECOLOURED][:, by_shape].any()


def test_sentences_are_told_where_they_can_be(tables):
    rng = np.random.default_rng(1)
    sentences = [make(tables, row, rng) for make in (true_claims, possible_claims) for row in range(COUNT)]
    true, known = degrees(sentences, tables)
    told, denied = told_sentences(true, known, sentences, tables, RECOLOURED), denials(tables)
    for place, claims in enumerate(sentences):
        assert np.array_equal(told[RECOLOURED, place], known[RECOLOURED, place] * (not names_colour(claims)))
        share = denied[:, shapes_alone(claims)].prod(1)
        expected = known[:, place] * (true[:, place] + (1 - true[:, place]) * share)
        assert np.allclose(told[~RECOLOURED, place], expected[~RECOLOURED], atol=1e-5)
    assert told[RECOLOURED].any() and told[~RECOLOURED].mean() > 0.7


def test_facts_of_recoloured_pictures_are_still_true_and_name_one_thing(tables):
    codes = draw_codes(tables, 40, np.random.default_rng(2))
    told = told_codes(codes, tables, RECOLOURED, np.random.default_rng(4))
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
