"""Starts of episodes: a layout, and an instruction that can be done in it."""

from __future__ import annotations

import math

import numpy as np

from envs.tabletop import instructions, scene
from envs.tabletop.geometry import gap
from envs.tabletop.goals import away, beside, goal, solved, tool_fits
from envs.tabletop.instructions import Instruction
from envs.tabletop.scene import TABLE, TOOL_RADIUS, Scene

_CLEAR = 0.07  # metres to keep between objects on the way: a push never is quite straight
_LEAST_PUSH = 0.15  # metres between an object and where it shall be
_NEAREST = 0.3  # metres between the tool and what it shall reach
_ROOM_TO_GRASP = 0.17  # metres around an object that is to be lifted, for the open fingers
_ROOM_BROAD = 0.02  # metres between objects and walls in broad starts
_TRIES = 400  # few take more than 30


def draw_start(
    rng: np.random.Generator,
    split: str,
    tool: str,
    objects: tuple[int, int],
    kinds=None,
    given: Instruction | None = None,
) -> tuple[Scene, Instruction]:
    """A scene and an instruction that is not done in it and can be done; `given`, or one of `kinds`.

    Raises:
        ValueError: no such scene was found; the message says what was asked for.
    """
    kind = _draw_kind(rng, tool, kinds, given)
    for _ in range(_TRIES):
        start, instruction = _drawn(rng, split, tool, objects, kind, given)
        start = _arranged(rng, start, instruction, split)
        if start is not None and not instruction.satisfied(start) and _can_be_done(instruction, start):
            order = rng.permutation(len(start.objects)).tolist()  # the first place is not always the one that is named
            return scene.Scene(tuple(start.objects[i] for i in order), start.zones, start.tool), instruction
    raise ValueError(f"found no scene in which {instruction} can be done; ask for fewer objects")


def draw_broad(
    rng: np.random.Generator,
    split: str,
    tool: str,
    objects: tuple[int, int],
    kinds=None,
    given: Instruction | None = None,
) -> tuple[Scene, Instruction]:
    """As `draw_start`, from the whole state space and for collection: objects up to the walls, the tool beside one of
    them half the time, now and then an object in the gripper; the instruction may be done already."""
    kind = _draw_kind(rng, tool, kinds, given)
    for _ in range(_TRIES):
        start, instruction = _drawn(rng, split, tool, objects, kind, given, room=_ROOM_BROAD)
        start = _disturbed(rng, start)
        if _has_an_end(instruction, start):
            return start, instruction
    raise ValueError(f"found no scene in which {instruction} can be done; ask for fewer objects")


def _disturbed(rng: np.random.Generator, start: Scene) -> Scene:
    index, chance = int(rng.integers(len(start.objects))), rng.random()
    if start.tool.kind == "gripper" and chance < 0.2:
        return solved(Instruction("lift", (start.name(index),)), start)
    if chance < 0.5:
        thing = start.objects[index]
        far = thing.radius + TOOL_RADIUS + rng.uniform(0.02, 0.1)
        beside = start.with_tool(away(thing, rng.uniform(-math.pi, math.pi), far))
        return beside if tool_fits(beside) else start
    return start


def _draw_kind(rng: np.random.Generator, tool: str, kinds, given: Instruction | None) -> str:
    kinds = (given.kind,) if given else tuple(kinds or instructions.kinds_of(tool))
    return kinds[int(rng.integers(len(kinds)))]


def _drawn(rng, split, tool, objects, kind, given, **room) -> tuple[Scene, Instruction]:
    """A scene and an instruction about it, or the one that is given."""
    include, zones = (given.objects if given else ()), ((given.zone,) if given and given.zone else ())
    named = instructions.KINDS[kind][0]
    counts = max(objects[0], named), max(objects[1], named)
    start = scene.draw(rng, split, tool, counts, include=include, include_zones=zones, **room)
    return start, given or instructions.draw(rng, start, (kind,))


def _has_an_end(instruction: Instruction, start: Scene) -> bool:
    try:
        return instruction.satisfied(solved(instruction, start))
    except ValueError:
        return False


def _arranged(rng: np.random.Generator, start: Scene, instruction: Instruction, split: str) -> Scene | None:
    """The scene changed so that there is something to do; None where that did not work out."""
    if instruction.kind == "separate":
        first, second = (start.index(reference) for reference in instruction.objects)
        other = start.objects[first]
        angle = rng.uniform(-math.pi, math.pi)
        place = beside(start.objects[second], other, angle)
        limit = TABLE - start.objects[second].radius - 2 * TOOL_RADIUS
        moved = start.moved(second, place)
        apart = all(
            gap(moved.objects[second], thing) > 0.1 for i, thing in enumerate(moved.objects) if i not in (first, second)
        )
        shown = split != "held_out_layouts" and scene.in_held_out_place(place)
        if max(abs(part) for part in place) > limit or not apart or shown:
            return None
        start = moved
        if start.tool.kind == "pusher" and not tool_fits(start):
            return None
    return start


def _can_be_done(instruction: Instruction, start: Scene) -> bool:
    index = start.index(instruction.objects[0])
    if index is None:
        return False
    thing = start.objects[index]
    if instruction.kind == "reach":
        far = math.dist(start.tool.position[:2], thing.position[:2])
        return far > _NEAREST and _has_an_end(instruction, start)
    if instruction.kind == "lift":
        return all(gap(thing, other) > _ROOM_TO_GRASP for i, other in enumerate(start.objects) if i != index)
    found = goal(instruction, start, clear=_CLEAR)
    return found is not None and math.dist(start.objects[found.index].position[:2], found.position) > _LEAST_PUSH
