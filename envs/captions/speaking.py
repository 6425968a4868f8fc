"""Sentences about pictures, from the tables of what is true of them."""

from __future__ import annotations

import numpy as np

from envs.captions.statements import STATEMENTS
from envs.captions.truth import OF_ONE, OF_THREE, OF_TWO, TRUE, Claims, Tables
from envs.tabletop.fact_phrasings import FACTS
from envs.tabletop.facts import PLACES, Fact
from envs.tabletop.instruction_phrasings import INSTRUCTIONS
from envs.tabletop.instructions import KINDS, Instruction
from envs.tabletop.sentences import fill
from envs.tabletop.vocabulary import COLOURS, HELD_OUT_COMBINATIONS, SHAPES, SIZES, Reference

_COLOURS, _SHAPES, _SIZES = (tuple(names) for names in (COLOURS, SHAPES, SIZES))
_ASKED_FOR = {relation: kind for kind, (_, relation) in KINDS.items()}  # facts that are an instruction's result
_AS_INSTRUCTION = 0.4  # of them become the instruction
_IN_FULL, _IN_PART = 0.1, 0.45  # of references: with the size; where there is just something, with less than its name
_MORE_CLAIMS = 0.25  # of sentences make two
_TRIES = 20
_OF_TWO = tuple(relation for relation in OF_TWO if relation not in KINDS)
_RELATIONS = ("exists", "at", "in_zone", "lifted", "tool_touches", "tool_near", *_OF_TWO, "lined_up", "count", "zone")
_BY_RELATION = {
    relation: [place for place, (name, _) in enumerate(OF_ONE) if name == relation]
    for relation, _ in OF_ONE
    if relation not in KINDS
}


def true_claims(tables: Tables, row: int, rng: np.random.Generator, about_held_out: bool = False) -> Claims:
    """Something that is true of the picture: of a tabletop first a relation that holds, each as often, then one fact of
    it, so that the common ones don't drown the rare.

    Args:
        about_held_out: it names a held-out combination of colour and shape, which the picture must show.
    """
    count = 1 if rng.random() >= _MORE_CLAIMS else 2
    if tables.task[row]:
        holding = np.flatnonzero(tables.statements[row])
        return tuple(int(number) for number in rng.permutation(holding)[:count])
    order = list(rng.permutation(len(_RELATIONS)))
    claims: list[Fact | Instruction] = []
    while order and len(claims) < count:
        relation = _RELATIONS[order.pop()]
        for _ in range(_TRIES if about_held_out else 1):
            fact = _true_fact(relation, tables, row, rng)
            if fact is not None and (not about_held_out or any(s[:2] in HELD_OUT_COMBINATIONS for s in fact.subjects)):
                claims.append(_perhaps_asked(fact, rng))
                break
    return tuple(claims)


def possible_claims(tables: Tables, row: int, rng: np.random.Generator) -> Claims:
    """Something about what is there, true or not."""
    if tables.task[row]:
        task = STATEMENTS[int(np.flatnonzero(tables.statements[row])[0])].task
        same = [number for number, statement in enumerate(STATEMENTS) if statement.task == task]
        return (same[int(rng.integers(len(same)))],)
    present = np.flatnonzero(tables.objects[row, :, 0] >= 0)
    relation = _RELATIONS[int(rng.integers(len(_RELATIONS)))]
    needed = 3 if relation == "lined_up" else 2 if relation in OF_TWO else 1
    if len(present) < needed or relation == "count":
        return (Fact("count", (), int(rng.integers(2, 7))),)
    colour = _COLOURS[int(rng.integers(len(_COLOURS)))]
    if relation == "zone":
        return (Fact("zone", (), colour),)
    named = tuple(_name(tables, row, i, rng) for i in rng.permutation(present)[:needed])
    if relation == "exists":  # the name of a thing with another's word
        said = list(named[0])
        which = int(rng.integers(2))
        said[which] = (_COLOURS, _SHAPES)[which][int(rng.integers(len((_COLOURS, _SHAPES)[which])))]
        if tuple(said[:2]) in HELD_OUT_COMBINATIONS:  # never heard of, not even as what there is not
            said = named[0]
        return (Fact("exists", (Reference(*said),)),)
    value = None
    if relation in _BY_RELATION:
        values = [OF_ONE[place][1] for place in _BY_RELATION[relation]]
        if relation == "in_zone":
            there = tables.zones[row][tables.zones[row] >= 0]
            values = [_COLOURS[i] for i in there] or values
        value = values[int(rng.integers(len(values)))]
    return (_perhaps_asked(Fact(relation, named, value), rng),)


def asked_claims(tables: Tables, row: int, rng: np.random.Generator) -> Claims:
    """Of a tabletop, an instruction that could be given, followed or not; else as `possible_claims`."""
    present = np.flatnonzero(tables.objects[row, :, 0] >= 0)
    there = tables.zones[row][tables.zones[row] >= 0]
    kinds = [
        kind for kind, (needed, _) in KINDS.items() if needed <= len(present) and (kind != "push_to_zone" or len(there))
    ]
    if tables.task[row] or not kinds:
        return possible_claims(tables, row, rng)
    kind = kinds[int(rng.integers(len(kinds)))]
    named = tuple(_name(tables, row, i, rng) for i in rng.permutation(present)[: KINDS[kind][0]])
    zone = _COLOURS[_pick(there, rng)] if kind == "push_to_zone" else None
    return (Instruction(kind, named, zone),)


def say(claims: Claims, rng: np.random.Generator, phrasings: str = "seen") -> str:
    """A sentence that makes the claims; `phrasings` is `seen` or `held_out`."""
    parts = [_say_one(claim, rng, phrasings) for claim in claims]
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def known_words() -> list[str]:
    """Texts with every word of the seen phrasings."""
    templates = [
        template for by_kind in (INSTRUCTIONS, FACTS) for ways in by_kind["seen"].values() for template in ways
    ]
    numbers = [fill("{value}", (), number) for number in range(7)]
    plain = [template.replace("{", " {").replace("}", "} ") for template in templates]
    plain = [" ".join(word for word in template.split() if "{" not in word) for template in plain]
    said = [way for statement in STATEMENTS for way in statement.seen]
    return [*plain, *said, *numbers, *PLACES, *COLOURS, *SHAPES, *SIZES, "the a an object and"]


def _say_one(claim: Fact | Instruction | int, rng: np.random.Generator, phrasings: str) -> str:
    if isinstance(claim, (Fact, Instruction)):
        return claim.sentence(rng, phrasings)
    ways = getattr(STATEMENTS[claim], phrasings)
    return ways[int(rng.integers(len(ways)))]


def _perhaps_asked(fact: Fact, rng: np.random.Generator) -> Fact | Instruction:
    """The fact, or the instruction that it is the result of."""
    kind = _ASKED_FOR.get(fact.relation)
    if kind is not None and rng.random() < _AS_INSTRUCTION and all(s.colour and s.shape for s in fact.subjects):
        return Instruction(kind, fact.subjects, fact.value)
    return fact


def _true_fact(relation: str, tables: Tables, row: int, rng: np.random.Generator) -> Fact | None:
    if relation == "count":
        return Fact("count", (), int((tables.objects[row, :, 0] >= 0).sum()))
    if relation == "zone":
        there = tables.zones[row][tables.zones[row] >= 0]
        return Fact("zone", (), _COLOURS[_pick(there, rng)]) if len(there) else None
    if relation in _BY_RELATION:
        places = _BY_RELATION[relation]
        found = np.argwhere((tables.one[row, places] == TRUE) & (tables.objects[row, :, 0] >= 0))
        if not len(found):
            return None
        place, thing = found[int(rng.integers(len(found)))]
        return Fact(relation, (_name(tables, row, thing, rng, partly=relation == "exists"),), OF_ONE[places[place]][1])
    table = (
        tables.three[row, OF_THREE.index(relation)] if relation in OF_THREE else tables.two[row, OF_TWO.index(relation)]
    )
    found = np.argwhere(table == TRUE)
    if not len(found):
        return None
    return Fact(relation, tuple(_name(tables, row, i, rng) for i in found[int(rng.integers(len(found)))]))


def _pick(numbers: np.ndarray, rng: np.random.Generator) -> int:
    return int(numbers[int(rng.integers(len(numbers)))])


def _name(tables: Tables, row: int, thing: int, rng: np.random.Generator, partly: bool = False) -> Reference:
    """What to call an object: mostly the least that tells it apart."""
    objects = tables.objects[row]
    colour, shape, size = objects[thing].tolist()
    whole = Reference(_COLOURS[colour], _SHAPES[shape], _SIZES[size])
    twins = ((objects[:, 0] == colour) & (objects[:, 1] == shape)).sum() > 1
    if twins or rng.random() < _IN_FULL:
        return whole
    if partly and rng.random() < _IN_PART:
        return (Reference(whole.colour), Reference(None, whole.shape), Reference(None, whole.shape, whole.size))[
            int(rng.integers(3))
        ]
    return Reference(whole.colour, whole.shape)
