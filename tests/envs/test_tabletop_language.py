"""The tabletop's sentences: facts that hold in hand-made scenes, and instructions that parse back."""

import dataclasses
import itertools

import numpy as np
import pytest

from envs.tabletop import instructions
from envs.tabletop.fact_phrasings import FACTS
from envs.tabletop.facts import MISSING, Fact, all_facts, holds, sample, truth_matrix
from envs.tabletop.instruction_phrasings import INSTRUCTIONS
from envs.tabletop.instructions import KINDS, Instruction, parse
from envs.tabletop.scene import HELD_OUT_PLACES, Object, Scene, Tool, Zone, draw, in_held_out_place
from envs.tabletop.sentences import fill
from envs.tabletop.vocabulary import COLOURS, HELD_OUT_COMBINATIONS, PHRASINGS, SHAPES, Reference

RED, BLUE, GREEN = Reference("red", "cube"), Reference("blue", "ball"), Reference("green", "cross")
SCENE = Scene(
    (
        Object("cube", "red", "small", (-0.6, 0.5, 0.0)),
        Object("ball", "blue", "large", (-0.315, 0.5, 0.0)),
        Object("cross", "green", "small", (0.6, 0.5, 0.0)),
        Object("plate", "blue", "small", (0.0, -0.6, 0.2), held=True),
    ),
    (Zone("green", (-0.5, 0.4)), Zone("pink", (0.5, -0.5))),
    Tool("gripper", (0.0, -0.6, 0.21), 0.28),
)


@pytest.mark.parametrize(
    ("fact", "true"),
    [
        (Fact("exists", (RED,)), True),
        (Fact("exists", (Reference(None, "ball", "large"),)), True),
        (Fact("exists", (Reference(None, "ball", "small"),)), False),
        (Fact("exists", (Reference("red", "ball"),)), False),
        (Fact("exists", (Reference("blue"),)), True),
        (Fact("count", (), 4), True),
        (Fact("count", (), 3), False),
        (Fact("zone", (), "pink"), True),
        (Fact("zone", (), "red"), False),
        (Fact("at", (RED,), "left"), True),
        (Fact("at", (RED,), "top left"), True),
        (Fact("at", (GREEN,), "left"), False),
        (Fact("at", (Reference("blue", "plate"),), "bottom"), True),
        (Fact("at", (BLUE,), "middle"), False),
        (Fact("left_of", (RED, BLUE)), True),
        (Fact("left_of", (BLUE, RED)), False),
        (Fact("right_of", (BLUE, RED)), True),
        (Fact("above", (RED, Reference("blue", "plate"))), True),
        (Fact("below", (RED, Reference("blue", "plate"))), False),
        (Fact("next_to", (RED, BLUE)), True),
        (Fact("touching", (RED, BLUE)), True),
        (Fact("next_to", (RED, GREEN)), False),
        (Fact("far_apart", (RED, GREEN)), True),
        (Fact("in_zone", (RED,), "green"), True),
        (Fact("in_zone", (GREEN,), "green"), False),
        (Fact("in_zone", (RED,), "cyan"), False),
        (Fact("lined_up", (RED, GREEN, BLUE)), True),
        (Fact("lined_up", (RED, GREEN, Reference("blue", "plate"))), False),
        (Fact("lifted", (Reference("blue", "plate"),)), True),
        (Fact("lifted", (RED,)), False),
        (Fact("tool_touches", (Reference("blue", "plate"),)), True),
        (Fact("tool_near", (RED,)), False),
        (Fact("next_to", (Reference("pink", "cross"), RED)), False),
    ],
)
def test_facts_hold_where_they_should(fact, true):
    assert holds(fact, SCENE) is true


def test_what_is_absent_makes_every_fact_about_it_false():
    absent = Reference("yellow", "cylinder")
    counts = {"lined_up": 3}
    for relation in MISSING:
        count = counts.get(relation, 2 if relation in ("next_to", "touching", "far_apart") or "_of" in relation else 1)
        subjects = (absent, RED, BLUE)[: 2 if relation in ("above", "below") else count]
        value = "green" if relation == "in_zone" else "left"
        assert not holds(Fact(relation, subjects, value), SCENE)


def test_an_object_is_not_next_to_itself():
    assert not holds(Fact("next_to", (RED, RED)), SCENE)


def test_gaps_are_between_surfaces_however_objects_are_turned():
    square = Object("cube", "red", "small", (0.0, 0.0, 0.0))
    for turn, close in ((0.0, True), (np.pi / 4, False)):
        scene = Scene((square, Object("ball", "blue", "small", (0.27, 0.0, 0.0))), (), Tool("pusher", (0.9, 0.9, 0.0)))
        turned = dataclasses.replace(scene, objects=(square._replace(turn=turn), scene.objects[1]))
        touching = Fact("touching", (RED, BLUE))
        assert holds(Fact("next_to", (RED, BLUE)), turned)
        assert holds(touching, turned) is (not close)  # a corner reaches further than a side


def test_all_facts_of_a_scene_hold_and_a_matrix_says_which_hold_elsewhere():
    rng = np.random.default_rng(0)
    scenes = [draw(rng, tool="gripper") for _ in range(20)]
    assert all(holds(fact, scene) for scene in scenes for fact in all_facts(scene))
    facts = [sample(scene, rng)[0] for scene in scenes]
    matrix = truth_matrix(facts, scenes)
    assert matrix.shape == (20, 20) and matrix.diagonal().all() and 0 < matrix.mean() < 0.5


def test_a_size_is_said_only_where_it_tells_two_objects_apart():
    assert SCENE.name(0) == RED
    twins = dataclasses.replace(SCENE, objects=(*SCENE.objects, Object("cube", "red", "large", (0.5, -0.5, 0.0))))
    assert [twins.name(i).size for i in (0, 4)] == ["small", "large"]
    assert twins.index(twins.name(4)) == 4


def test_every_phrasing_of_every_instruction_parses_back():
    named = (Reference("red", "cube"), Reference("blue", "ball", "large"), Reference("blue", "ball", "small"))
    for phrasings, (kind, (count, _)) in itertools.product(PHRASINGS, KINDS.items()):
        templates = INSTRUCTIONS[phrasings][kind]
        assert len(set(templates)) == len(templates) >= (6 if phrasings == "seen" else 3)
        for template in templates:
            meant = Instruction(kind, named[:count], "orange" if kind == "push_to_zone" else None)
            sentence = fill(template, meant.objects, meant.zone)
            assert parse(sentence) == meant == parse(f" {sentence.capitalize()}. ")


def test_seen_and_held_out_phrasings_share_no_sentence():
    for grammar in (INSTRUCTIONS, FACTS):
        assert grammar["seen"].keys() == grammar["held_out"].keys()
        seen, held_out = ({text for texts in grammar[key].values() for text in texts} for key in PHRASINGS)
        assert not seen & held_out
        assert sum(map(len, grammar["seen"].values())) == len(seen)  # no sentence means two things


def test_every_fact_can_be_said():
    rng = np.random.default_rng(0)
    facts = all_facts(SCENE) + [Fact("count", (), 1), Fact("at", (RED,), "middle")]
    for fact, phrasings in itertools.product(facts, PHRASINGS):
        sentence = fact.sentence(rng, phrasings)
        assert "{" not in sentence and all(subject.words() in sentence for subject in fact.subjects)
    assert Fact("exists", (Reference("orange", "ball"),)).sentence(rng).count("an orange ball") == 1
    with pytest.raises(ValueError, match="phrasings='new' is not one of seen, held_out"):
        facts[0].sentence(rng, "new")


def test_a_sentence_that_is_not_understood_is_answered_with_examples():
    with pytest.raises(ValueError, match=r"push the red cube to the green zone.*Colours: red.*shapes: cube"):
        parse("juggle the red cube")
    with pytest.raises(ValueError, match="names one object twice"):
        parse("separate the red cube and the small red cube")


def test_an_instruction_is_done_when_its_result_is_a_fact():
    assert Instruction("push_to_zone", (RED,), "green").satisfied(SCENE)
    assert not Instruction("push_to_zone", (GREEN,), "green").satisfied(SCENE)
    assert Instruction("lift", (Reference("blue", "plate"),)).result == Fact("lifted", (Reference("blue", "plate"),))
    assert {KINDS[kind][1] for kind in KINDS} <= MISSING.keys()


def test_progress_grows_on_the_way_and_is_nothing_for_what_is_absent():
    to_zone = Instruction("push_to_zone", (GREEN,), "pink")
    way = [SCENE.moved(2, (0.6, y)).with_tool((0.6, y + 0.2, 0.0)) for y in (0.5, 0.2, -0.1, -0.4)]
    values = [to_zone.progress(scene) for scene in way]
    assert values == sorted(values) and len(set(values)) == 4 and 0 <= values[0] and values[-1] <= 1
    assert to_zone.satisfied(way[-1]) and values[-1] > 0.95
    assert Instruction("reach", (Reference("pink", "cross"),)).progress(SCENE) == 0
    apart = Instruction("separate", (RED, BLUE))
    assert apart.progress(SCENE) < apart.progress(SCENE.moved(1, (0.3, -0.2)))


def test_held_out_combinations_are_a_fifth_and_leave_every_colour_and_shape_seen():
    assert len(HELD_OUT_COMBINATIONS) == len(COLOURS) * len(SHAPES) // 5
    for names, position in ((COLOURS, 0), (SHAPES, 1)):
        held_out = [pair[position] for pair in HELD_OUT_COMBINATIONS]
        assert set(held_out) == set(names) and max(map(held_out.count, names)) <= 2


def test_splits_do_not_overlap():
    rng = np.random.default_rng(0)
    for _ in range(100):
        for split in ("train", "held_out_phrasings"):
            scene = draw(rng, split)
            assert not any((thing.colour, thing.shape) in HELD_OUT_COMBINATIONS for thing in scene.objects)
            assert not any(in_held_out_place(thing.position) for thing in (*scene.objects, *scene.zones))
        first = draw(rng, "held_out_combinations").objects[0]
        assert (first.colour, first.shape) in HELD_OUT_COMBINATIONS
        assert in_held_out_place(draw(rng, "held_out_layouts").objects[0].position)
    assert HELD_OUT_PLACES[0] > 0


def test_a_scene_can_be_asked_to_hold_what_a_sentence_names():
    rng = np.random.default_rng(0)
    for _ in range(50):
        scene = draw(rng, include=(RED, Reference("blue", "ball", "small")), include_zones=("cyan",), objects=(2, 4))
        assert len(scene.matching(RED)) == 1 and scene.index(Reference("blue", "ball", "small")) == 1
        assert scene.zone("cyan") is not None and 2 <= len(scene.objects) <= 4
        assert instructions.draw(rng, scene, ("lift",)).objects[0] == RED
