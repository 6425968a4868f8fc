"""Distances between what is on the table, in metres, from surface to surface."""

from __future__ import annotations

import math

from envs.tabletop.scene import CROSS_BAR, TOOL_RADIUS, ZONE, Object, Tool, Zone


def distance(a, b) -> float:
    """Between the middles of two things with a `position`, seen from above."""
    return math.hypot(a.position[0] - b.position[0], a.position[1] - b.position[1])


def gap(a: Object, b: Object) -> float:
    """Between two objects; 0 where they touch."""
    far = distance(a, b) - a.radius - b.radius
    if far > 0.2:
        return far  # a bound is enough where they are far apart
    beside = _planar_gap(a, b)
    above = max(a.position[2] - b.position[2] - b.height, b.position[2] - a.position[2] - a.height, 0.0)
    return math.hypot(beside, above)


def tool_gap(tool: Tool, thing: Object) -> float:
    """Between the tool and an object. Of the gripper: from the point between its fingertips, and 0 over an object."""
    x, y, z = tool.position
    beside = max(min(_point_gap(piece, x, y) for piece in _pieces(thing)) - TOOL_RADIUS, 0.0)
    if tool.kind == "pusher":
        return beside
    return math.hypot(beside, max(z - thing.position[2] - thing.height, 0.0))


def inside(thing: Object, zone: Zone) -> bool:
    """The object's middle is over the zone."""
    return outside(thing, zone) <= 0.0


def outside(thing: Object, zone: Zone) -> float:
    """Metres from the object's middle to the zone; 0 inside."""
    x = max(abs(thing.position[0] - zone.position[0]) - ZONE, 0.0)
    y = max(abs(thing.position[1] - zone.position[1]) - ZONE, 0.0)
    return math.hypot(x, y)


def off_line(a: Object, b: Object, c: Object) -> float:
    """How far the one in between is from the line through the two that are furthest apart."""
    _, first, last, middle = max((distance(a, b), a, b, c), (distance(b, c), b, c, a), (distance(a, c), a, c, b))
    (x, y, _), (x1, y1, _), (x2, y2, _) = middle.position, first.position, last.position
    length = math.hypot(x2 - x1, y2 - y1)
    return abs((x2 - x1) * (y - y1) - (y2 - y1) * (x - x1)) / max(length, 1e-9)


# A footprint is a set of disks (x, y, radius) and rectangles (x, y, half length, half width, cosine, sine).


def _pieces(thing: Object) -> list[tuple]:
    x, y, _ = thing.position
    half = thing.half_width
    if thing.shape not in ("cube", "cross"):
        return [(x, y, half)]
    cosine, sine = math.cos(thing.turn), math.sin(thing.turn)
    if thing.shape == "cube":
        return [(x, y, half, half, cosine, sine)]
    return [(x, y, half, CROSS_BAR * half, cosine, sine), (x, y, half, CROSS_BAR * half, -sine, cosine)]


def _point_gap(piece: tuple, x: float, y: float) -> float:
    """From a point to a piece; 0 inside."""
    x, y = x - piece[0], y - piece[1]
    if len(piece) == 3:
        return max(math.hypot(x, y) - piece[2], 0.0)
    _, _, length, width, cosine, sine = piece
    along, across = abs(cosine * x + sine * y) - length, abs(cosine * y - sine * x) - width
    return math.hypot(max(along, 0.0), max(across, 0.0))


def _corners(piece: tuple):
    x, y, length, width, cosine, sine = piece
    for u, v in ((length, width), (length, -width), (-length, width), (-length, -width)):
        yield x + cosine * u - sine * v, y + sine * u + cosine * v


def _planar_gap(a: Object, b: Object) -> float:
    """Seen from above. Between convex shapes that don't overlap, a corner of one is nearest to the other."""
    least = math.inf
    others = _pieces(b)
    for one in _pieces(a):
        for other in others:
            if len(one) == 3:
                least = min(least, max(_point_gap(other, one[0], one[1]) - one[2], 0.0))
            elif len(other) == 3:
                least = min(least, max(_point_gap(one, other[0], other[1]) - other[2], 0.0))
            else:
                least = min(least, *(_point_gap(other, x, y) for x, y in _corners(one)))
                least = min(least, *(_point_gap(one, x, y) for x, y in _corners(other)))
    return least
