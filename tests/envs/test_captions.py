"""Captioned pictures: what is said to be true is true, held-out words stay out, and other looks are put back."""

from __future__ import annotations

import math

import gymnasium
import mujoco
import numpy as np
import pytest

import envs  # noqa: F401  registers the built-in tasks
from envs.captions.appearance import Appearance
from envs.captions.codes import LABELS, QUESTIONS, RELATIONS, codes_of, draw_codes, labels
from envs.captions.corpus import Corpus, arrange
from envs.captions.speaking import asked_claims, known_words, possible_claims, say, true_claims
from envs.captions.statements import STATEMENTS, TASKS
from envs.captions.truth import OF_ONE, TRUE, attributes, degrees, empty_tables, enter_scene, truth
from envs.tabletop import facts
from envs.tabletop.facts import Fact
from envs.tabletop.instructions import KINDS, Instruction, parse
from envs.tabletop.scene import TOOLS, Object, Scene, Tool, Zone, draw
from envs.tabletop.vocabulary import COLOURS, HELD_OUT_COMBINATIONS, SHAPES, SIZES, Reference

WORDS = {word for text in known_words() for word in "".join(c if c.isalpha() else " " for c in text.lower()).split()}


@pytest.fixture(scope="module")
def corpus():
    corpus = Corpus(32)
    yield corpus
    corpus.close()


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(0)
    scenes = [arrange(draw(rng, tool=TOOLS[i % 2]), rng) for i in range(60)]
    tables = empty_tables(len(scenes))
    for row, scene in enumerate(scenes):
        enter_scene(tables, row, scene)
    return scenes, tables


def is_so(claim, scene) -> bool:
    return claim.satisfied(scene) if isinstance(claim, Instruction) else facts.holds(claim, scene)


def test_the_tables_say_what_the_facts_say(scenes):
    scenes, tables = scenes
    rng = np.random.default_rng(1)
    asked = [
        make(tables, row, rng) for make in (true_claims, possible_claims) for row in range(len(scenes)) for _ in "abc"
    ]
    asked += [(fact,) for scene in scenes[:10] for fact in facts.all_facts(scene)]
    got, known = truth(asked, tables)
    expected = [[all(is_so(claim, scene) for claim in claims) for claims in asked] for scene in scenes]
    assert known.all() and np.array_equal(got, expected)
    assert {claim[0] for claims in asked for claim in claims} == {*facts.MISSING, *KINDS, "count", "zone"}


def test_what_is_claimed_to_be_true_is(scenes):
    scenes, tables = scenes
    rng = np.random.default_rng(2)
    for row, scene in enumerate(scenes):
        for _ in range(10):
            assert all(is_so(claim, scene) for claim in true_claims(tables, row, rng))


def test_possible_claims_are_of_both_kinds(scenes):
    scenes, tables = scenes
    rng = np.random.default_rng(3)
    claims = [possible_claims(tables, row, rng) for row in range(len(scenes)) for _ in range(10)]
    holds = truth(claims, tables)[0]
    own = [holds[i // 10, i] for i in range(len(claims))]
    assert 0.15 < np.mean(own) < 0.85


def test_what_is_asked_for_is_an_instruction_of_every_kind_that_can_be_told(scenes, corpus):
    scenes, tables = scenes
    rng = np.random.default_rng(3)
    claims = [asked_claims(tables, row, rng) for row in range(len(scenes)) for _ in range(12)]
    assert {claim.kind for (claim,) in claims} == set(KINDS)
    for number, (claim,) in enumerate(claims):
        assert parse(say((claim,), rng)) == claim
        scene = scenes[number // 12]
        assert claim.zone is None or scene.zone(claim.zone) is not None
        assert None not in [scene.index(reference) for reference in claim.objects]
    _, drawn = corpus.draw(60, 5)
    task = int(np.flatnonzero(drawn.task)[0])
    assert all(isinstance(claim, int) for claim in asked_claims(drawn, task, rng))


def test_held_out_combinations_are_neither_drawn_nor_named_in_training(corpus):
    rng = np.random.default_rng(4)
    _, tables = corpus.draw(40, 5)
    _, held_out = corpus.draw(20, 6, "held_out_combinations")
    claims = [make(tables, row, rng) for row in range(40) for make in (true_claims, possible_claims) for _ in range(5)]
    named = {s[:2] for claim in claims for fact in claim if not isinstance(fact, int) for s in fact[1]}
    assert len(named) > 20 and not named & HELD_OUT_COMBINATIONS
    for row in range(20):
        claim = true_claims(held_out, row, rng, about_held_out=True)
        assert any(s[:2] in HELD_OUT_COMBINATIONS for fact in claim for s in fact[1])


def test_training_says_known_words_alone(corpus):
    rng = np.random.default_rng(5)
    _, tables = corpus.draw(60, 7)
    said = {
        word
        for row in range(60)
        for make in (true_claims, possible_claims)
        for _ in range(10)
        for word in say(make(tables, row, rng), rng).replace(",", "").replace("'", " ").lower().split()
    }
    assert len(said) > 80 and said <= WORDS


def test_seen_and_held_out_phrasings_of_a_statement_differ():
    for statement in STATEMENTS:
        assert statement.seen and statement.held_out and not set(statement.seen) & set(statement.held_out)


@pytest.mark.parametrize(
    "task, state, true, false",
    [
        ("cartpole", [0.0, 0.05, 0, 0], "the pole stands upright in the middle", "the pole hangs down"),
        ("cartpole", [-1.0, math.pi, 0, 0], "the pole hangs down", "the cart is in the middle"),
        ("cartpole", [1.0, 0.8, 0, 0], "the pole leans to the right", "the pole stands upright"),
        ("pendulum", [-1.5, 0], "the pendulum is horizontal", "the pendulum leans to the right"),
        ("reacher", [0.3, 0.1, 0, 0], "the arm is stretched out", "the arm is folded"),
        ("two_room", [-0.6, 0.7, 0, 0], "the ball is in the left room", "the ball is in the right room"),
    ],
)
def test_statements_of_built_in_tasks(task, state, true, false):
    env = gymnasium.make(TASKS[task]).unwrapped
    env.reset(seed=0, options={"state": state})
    holding = {
        way for statement in STATEMENTS if statement.task == task and statement.true(env) for way in statement.seen
    }
    env.close()
    assert true in holding and false not in holding


@pytest.mark.parametrize("task", ["reacher", "two_room", "pusher"])
def test_a_solved_task_is_said_to_be_solved(task):
    ways = {
        "reacher": "the arm touches the disk",
        "two_room": "the ball is at its goal",
        "pusher": "the block is in its place",
    }
    (statement,) = [s for s in STATEMENTS if ways[task] in s.seen]
    env = gymnasium.make(TASKS[task]).unwrapped
    env.reset(seed=1)
    assert not statement.true(env)
    env.reset(seed=1, options={"solved": True})
    assert statement.true(env)
    env.close()


def test_codes_say_what_sentences_say(scenes):
    """Facts drawn as numbers hold where the sentences of the same facts do, and a sentence's own numbers are found."""
    _, tables = scenes
    codes = draw_codes(tables, 40, np.random.default_rng(0))
    names = (tuple(COLOURS), SHAPES, tuple(SIZES))
    claims = []
    for number, subjects in zip(codes.relation, codes.subjects, strict=True):
        relation, value = RELATIONS[number]
        called = [
            Reference(*(None if word < 0 else words[word] for word, words in zip(subject, names, strict=True)))
            for subject in subjects
            if (subject >= 0).any()
        ]
        claims.append(((Instruction if relation in KINDS else Fact)(relation, tuple(called), value),))
    assert np.array_equal(degrees(claims, tables)[0][codes.picture, np.arange(len(claims))], codes.degree)
    assert set(codes.relation.tolist()) == set(range(len(RELATIONS)))
    assert all(subject[:2] not in HELD_OUT_COMBINATIONS for ((_, subjects, _),) in claims for subject in subjects)
    both = codes.relation == RELATIONS.index(("left_of", None))
    assert 0.3 < (codes.degree[both] == 1).mean() < 0.7

    two = claims[0] + claims[1]
    numbers, relation, subjects = codes_of([*claims, two, (3,), (Fact("count", (), 2),)])
    assert np.array_equal(numbers, np.arange(len(claims)))
    assert np.array_equal(relation, codes.relation) and np.array_equal(subjects, codes.subjects)


def test_the_nearer_the_truer():
    """An object on its way to a zone, and the tool on its way to the object."""
    cube, zone = Object("cube", "red", "small", (0.0, 0.0, 0.0)), Zone("green", (0.6, 0.6))
    scene = Scene((cube,), (zone,), Tool("pusher", (-0.9, 0.0, 0.0)))
    said = Reference("red", "cube")
    asked = [
        (Fact("in_zone", (said,), "green"),),
        (Instruction("push_to_zone", (said,), "green"),),
        (Fact("tool_touches", (said,)),),
    ]

    def degree(now) -> np.ndarray:
        tables = empty_tables(1)
        enter_scene(tables, 0, now)
        return degrees(asked, tables)[0][0]

    far, nearer, tool_nearer, done = map(
        degree, (scene, scene.moved(0, (0.2, 0.2)), scene.with_tool((-0.3, 0.0)), scene.moved(0, (0.6, 0.6)))
    )
    assert 0 < far[0] < nearer[0] < 0.5 and 0 < far[1] < nearer[1] < 0.5
    assert tool_nearer[0] == far[0] and tool_nearer[1] > far[1] and far[2] < tool_nearer[2] < 0.5
    assert done[0] == done[1] == 1 and done[2] < 0.5
    other = [(Fact("in_zone", (said,), "blue"),), (Fact("in_zone", (Reference("blue"),), "green"),)]
    tables = empty_tables(1)
    enter_scene(tables, 0, scene)
    assert not degrees(other, tables)[0].any()


def test_questions_count_where_they_are_about_what_is_there(corpus):
    _, tables = corpus.draw(40, 3)
    degree, weight = labels(tables)
    assert degree.shape == weight.shape == (40, LABELS) and len(set(QUESTIONS)) == LABELS
    tabletop, told = tables.task == 0, LABELS - len(STATEMENTS)
    assert weight[tabletop, :told].all() and not weight[tabletop, told:].any() and not weight[~tabletop, :told].any()
    for row in np.flatnonzero(~tabletop):
        assert len({STATEMENTS[i].task for i in np.flatnonzero(weight[row, told:])}) == 1
    for number, (claim,) in enumerate(QUESTIONS[:told]):
        named = [s for s in claim[1] if claim[0] != "exists"]
        for row in np.flatnonzero(tabletop):
            colours = {tuple(COLOURS)[i] for i in tables.objects[row, :, 0] if i >= 0}
            shapes = {SHAPES[i] for i in tables.objects[row, :, 1] if i >= 0}
            there = all(s.colour in colours if s.colour else s.shape in shapes for s in named)
            assert weight[row, number] == pytest.approx(1.0 if there else 0.1)
            assert there or degree[row, number] == 0
    assert not any(s[:2] in HELD_OUT_COMBINATIONS for (claim,) in QUESTIONS[:told] for s in claim[1])


def test_pictures_follow_from_the_seed(corpus):
    first, again = corpus.draw(12, 8), corpus.draw(12, 8)
    assert np.array_equal(first[0], again[0]) and all(
        np.array_equal(a, b) for a, b in zip(first[1], again[1], strict=True)
    )
    assert not np.array_equal(first[0], corpus.draw(12, 9)[0])


def test_the_cells_show_what_they_are_said_to_show(corpus):
    """The colour that a cell is said to show is found in it, where the picture is as the env draws it."""
    sharp = Corpus(64)
    pictures, tables = sharp.draw(40, 10, "held_out_layouts")  # tabletops alone
    sharp.close()
    palette, hits = np.array(list(COLOURS.values())), []
    for picture, cells, values in zip(pictures, tables.cells, attributes(tables), strict=True):
        for cell, (colour, *_) in zip(cells[:6], values[:6], strict=True):
            if cell >= 0:
                row, column = 8 * (cell // 8), 8 * (cell % 8)
                part = picture[max(row - 2, 0) : row + 10, max(column - 2, 0) : column + 10].reshape(-1, 3) / 255
                hue = palette[colour] / np.linalg.norm(palette[colour])
                likeness = part @ hue / np.linalg.norm(part, axis=1).clip(0.05)
                hits.append(np.sort(likeness)[-6:].mean() > 0.95)
    assert len(hits) > 100 and np.mean(hits) > 0.9


def test_parts_know_what_is_around_them(scenes):
    """What an object's patch is asked about its surroundings is what holds of it."""
    _, tables = scenes
    values = attributes(tables)
    there = tables.objects[..., 0] >= 0
    touched = tables.one[:, OF_ONE.index(("reach", None))] == TRUE
    assert (values[:, :6, 4][there & touched] == 4).all() and (values[:, :6, 4][there & ~touched] < 4).all()
    for number, colour in enumerate(COLOURS):
        inside = tables.one[:, OF_ONE.index(("in_zone", colour))] == TRUE
        assert (values[:, :6, 8][there & inside] <= number).all()
        assert inside[values[:, :6, 8] == number].all()
    assert (values[:, :6][~there] == -1).all() and (values[:, 6:, 4:] == -1).all()


def test_another_look_is_put_back():
    env = gymnasium.make(TASKS["pusher"]).unwrapped
    names = ("cam_pos", "cam_quat", "cam_fovy", "light_dir", "light_diffuse", "geom_rgba", "geom_matid")
    before = {name: getattr(env.model, name).copy() for name in names}
    appearance = Appearance(env.model)
    appearance.vary(np.random.default_rng(0))
    assert not np.array_equal(env.model.cam_pos, before["cam_pos"])
    mujoco.mj_forward(env.model, env.data)
    appearance.restore()
    assert all(np.array_equal(getattr(env.model, name), value) for name, value in before.items())
    env.close()
