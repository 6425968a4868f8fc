"""Where an instruction's objects shall go, and the scene when they are there."""

from __future__ import annotations

import math
from typing import NamedTuple

from envs.tabletop.facts import FAR_APART
from envs.tabletop.geometry import distance, gap, tool_gap
from envs.tabletop.instructions import Instruction
from envs.tabletop.paths import to_segment
from envs.tabletop.scene import TABLE, TOOL_RADIUS, ZONE, Object, Scene

_CLEAR = 0.03  # metres to keep between objects
_DETOUR = 0.2  # metres
_ASIDE = 0.05  # metres of further distance that a goal must save to be worth changing to
_ANGLES = [i * math.pi / 12 for i in range(24)]
_LIFT = 0.2  # metres that an object is lifted
_PRESSED = 0.01  # metres that closed fingers are nearer than what they hold is wide: MuJoCo sees them touch


class Goal(NamedTuple):
    """Which object to move, and where to, [2]."""

    index: int
    position: tuple[float, float]


def goal(instruction: Instruction, now: Scene, before: Goal | None = None, clear: float = _CLEAR) -> Goal | None:
    """The nearest place that does what is asked and that a straight push reaches.

    Args:
        before: the goal so far, which is kept to unless another is clearly nearer.
        clear: metres to keep from objects that are not to be next to.

    Returns:
        None where there is none, or the instruction (reach, lift) moves nothing over the table.
    """
    best, least = None, math.inf
    partner = now.index(instruction.objects[1]) if instruction.kind == "push_next_to" else None
    for candidate in _candidates(instruction, now):
        thing = now.objects[candidate.index]
        far = math.dist(thing.position[:2], candidate.position)
        if before is not None and (
            candidate.index != before.index or math.dist(candidate.position, before.position) > 0.15
        ):
            far += _ASIDE
        if far < least and _free(now, candidate, partner, clear) and _can_be_pushed(now, candidate):
            best, least = candidate, far
    return best


def detour(now: Scene, to: Goal) -> Goal | None:
    """Where to push the object of `to` for a while when no straight push leads to the goal; None where it is stuck."""
    thing = now.objects[to.index]
    ways = [Goal(to.index, away(thing, angle, _DETOUR)) for angle in _ANGLES]
    possible = [way for way in ways if _free(now, way, None, 0.0) and _can_be_pushed(now, way)]
    return min(possible, key=lambda way: math.dist(way.position, to.position), default=None)


def solved(instruction: Instruction, now: Scene) -> Scene:
    """The scene as it looks when the instruction is done, and the same scene where it is done already.

    Raises:
        ValueError: what is named is not there, or has no place to go to.
    """
    if instruction.satisfied(now):
        return now
    index = now.index(instruction.objects[0])
    if index is not None:
        if instruction.kind == "reach":
            return _tool_at(now, index)
        if instruction.kind == "lift":
            thing = now.objects[index]
            aligned = round(thing.turn / (math.pi / 2)) * math.pi / 2  # the fingers press it straight
            held = now.moved(index, (*thing.position[:2], _LIFT), held=True, turn=aligned)
            return held.with_tool((*thing.position[:2], _LIFT + 0.02), 2 * thing.half_width - _PRESSED)
        found = goal(instruction, now)
        if found is not None:
            return _tool_behind(now, found)
    raise ValueError(f"{instruction} can't be done in this scene: what it names is absent or has no place to go to")


def _candidates(instruction: Instruction, now: Scene):
    """Goals that would do, whether or not they are free."""
    indices = [now.index(reference) for reference in instruction.objects]
    if None in indices:
        return
    things = [now.objects[index] for index in indices]
    if instruction.kind == "push_to_zone":
        zone = now.zone(instruction.zone)
        if zone is not None:
            x, y = zone.position
            inner = ZONE / 2
            for dx in (0.0, -inner, inner):
                for dy in (0.0, -inner, inner):
                    yield Goal(indices[0], (x + dx, y + dy))
    elif instruction.kind == "push_next_to":
        for angle in _ANGLES:
            yield Goal(indices[0], beside(things[0], things[1], angle))
    elif instruction.kind == "separate":
        for index, thing, other in ((indices[0], *things), (indices[1], *things[::-1])):
            far = thing.radius + other.radius + FAR_APART + _CLEAR
            for angle in _ANGLES:
                yield Goal(index, away(other, angle, far))
    elif instruction.kind == "line_up":
        for index, thing, a, b in zip(indices, things, things[1:] + things[:1], things[2:] + things[:2]):
            yield from _on_line(index, thing, a, b)


def _on_line(index: int, thing: Object, a: Object, b: Object):
    (x1, y1, _), (x2, y2, _) = a.position, b.position
    length = max(distance(a, b), 1e-6)
    along = (x2 - x1) / length, (y2 - y1) / length
    x, y, _ = thing.position
    foot = (x - x1) * along[0] + (y - y1) * along[1]
    for step in range(-8, 9):  # the nearest point of the line first, then to both sides of it
        at = foot + 0.06 * step
        yield Goal(index, (x1 + at * along[0], y1 + at * along[1]))


def away(thing: Object, angle: float, far: float) -> tuple[float, float]:
    return thing.position[0] + far * math.cos(angle), thing.position[1] + far * math.sin(angle)


def beside(thing: Object, other: Object, angle: float) -> tuple[float, float]:
    """The place of `thing` at that angle from `other` with a small gap in between."""
    far = thing.radius + other.radius + _CLEAR
    for _ in range(3):
        place = away(other, angle, far)
        far -= gap(thing._replace(position=(*place, 0.0)), other) - _CLEAR
    return away(other, angle, far)


def _free(now: Scene, to: Goal, partner: int | None, clear: float) -> bool:
    """The goal is on the table, and no other object is there or in the way; `partner` may be beside it."""
    thing = now.objects[to.index]
    if max(abs(part) for part in to.position) > TABLE - thing.radius - _CLEAR:
        return False
    placed = thing._replace(position=(*to.position, 0.0))
    for i, other in enumerate(now.objects):
        if i == to.index:
            continue
        near, keep = thing.radius + other.radius, 0.8 * _CLEAR if i == partner else clear
        if to_segment(other.position, thing.position, to.position) < near + keep and (
            gap(placed, other) < keep or _passes(other, thing, to.position, near)
        ):
            return False
    return True


def _passes(other: Object, thing: Object, target, near: float) -> bool:
    """The straight way to the target comes nearer to `other` than both its ends are."""
    least = to_segment(other.position, thing.position, target)
    ends = min(distance(other, thing), math.dist(other.position[:2], target))
    return least < near and least < ends - 0.01


def _can_be_pushed(now: Scene, to: Goal) -> bool:
    """The tool has room behind the object."""
    thing = now.objects[to.index]
    behind = contact_point(thing, to.position)
    if max(abs(part) for part in behind) > TABLE - TOOL_RADIUS:
        return False
    return all(
        math.dist(behind, other.position[:2]) > other.radius + TOOL_RADIUS + 0.01
        for i, other in enumerate(now.objects)
        if i != to.index
    )


def contact_point(thing: Object, target, clearance: float = _CLEAR) -> tuple[float, float]:
    """Where the tool stands before it pushes an object straight to `target`."""
    x, y, _ = thing.position
    far = max(math.dist((x, y), target), 1e-6)
    back = (thing.radius + TOOL_RADIUS + clearance) / far
    return x - back * (target[0] - x), y - back * (target[1] - y)


def _tool_at(now: Scene, index: int) -> Scene:
    """The tool touches object `index`: the pusher from a free side, the gripper from above."""
    thing = now.objects[index]
    if now.tool.kind == "gripper":
        return now.with_tool((*thing.position[:2], thing.height + 0.015), now.tool.opening)
    x, y, _ = now.tool.position
    first = math.atan2(y - thing.position[1], x - thing.position[0])
    for angle in sorted(_ANGLES, key=lambda angle: -math.cos(angle - first)):
        far = TOOL_RADIUS + thing.radius
        for _ in range(3):
            there = now.with_tool(away(thing, angle, far))
            far -= tool_gap(there.tool, thing) - 0.01
        there = now.with_tool(away(thing, angle, far))
        if tool_fits(there, index):
            return there
    raise ValueError(f"no free side of the {thing.reference.words()} for the tool")


def tool_fits(now: Scene, *but: int) -> bool:
    place = now.tool.position[:2]
    return max(abs(part) for part in place) < TABLE - TOOL_RADIUS and all(
        math.dist(place, other.position[:2]) > other.radius + TOOL_RADIUS
        for i, other in enumerate(now.objects)
        if i not in but
    )


def _tool_behind(now: Scene, to: Goal) -> Scene:
    """The object at its goal, and the tool behind it, as after a straight push."""
    thing = now.objects[to.index]
    done = now.moved(to.index, to.position)
    x, y = to.position
    far = max(math.dist(thing.position[:2], to.position), 1e-6)
    back = (thing.radius + TOOL_RADIUS + 0.01) / far
    place = x - back * (x - thing.position[0]), y - back * (y - thing.position[1])
    there = done.with_tool((*place, 0.02 if now.tool.kind == "gripper" else 0.0))
    return there if tool_fits(there) else done.with_tool(now.tool.position, now.tool.opening)
