"""Ways round objects for a tool that can't fly over them."""

from __future__ import annotations

import functools
import heapq
import math

import numpy as np

from envs.tabletop.scene import TABLE, TOOL_RADIUS, Scene

_CELL = 0.05  # metres
_CLEAR = 0.012  # metres to keep from objects
_THROUGH = 20.0  # how much dearer a cell is where the tool would touch something: there is always a way
_CELLS = int((TABLE - TOOL_RADIUS) / _CELL)  # from the middle to the last
_SIDE = 2 * _CELLS + 1


def waypoint(now: Scene, target, ignored: int | None = None) -> tuple[float, float]:
    """Where to head for from where the tool is: the furthest point in sight on the shortest way to `target`, [2].

    Args:
        ignored: the object that need not be kept away from.
    """
    circles = [
        (*thing.position[:2], thing.radius + TOOL_RADIUS + _CLEAR)
        for i, thing in enumerate(now.objects)
        if i != ignored
    ]
    start = now.tool.position[:2]
    # What the tool touches already is no obstacle to getting away from it.
    circles = [(x, y, min(r, 0.98 * math.dist(start, (x, y)))) for x, y, r in circles]
    if _in_sight(start, target, circles):
        return float(target[0]), float(target[1])
    way = _shortest(start, target, circles)
    for point in reversed(way[1:]):
        if _in_sight(start, point, circles):
            return point
    return way[1] if len(way) > 1 else (float(target[0]), float(target[1]))


def _in_sight(start, end, circles) -> bool:
    return all(to_segment((x, y), start, end) >= radius for x, y, radius in circles)


def to_segment(point, start, end) -> float:
    """Metres from a point to the segment between two, [2] each."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    along = ((point[0] - start[0]) * dx + (point[1] - start[1]) * dy) / max(dx * dx + dy * dy, 1e-12)
    along = min(max(along, 0.0), 1.0)
    return math.hypot(point[0] - start[0] - along * dx, point[1] - start[1] - along * dy)


def _shortest(start, target, circles) -> list[tuple[float, float]]:
    """Dijkstra's algorithm over a grid, from the cell of `start` to that of `target`, as places."""
    axis = (np.arange(_SIDE) - _CELLS) * _CELL
    cost = np.ones((_SIDE, _SIDE))
    for x, y, radius in circles:
        cost[np.hypot(axis[:, None] - x, axis[None] - y) < radius] = _THROUGH
    cost = cost.ravel().tolist()
    first, last = _cell(start), _cell(target)
    best, origin, queue = {first: 0.0}, {}, [(0.0, first)]
    while queue:
        so_far, cell = heapq.heappop(queue)
        if cell == last:
            break
        if so_far > best[cell]:
            continue
        for other, step in _neighbours(cell):
            reached = so_far + step * cost[other]
            if reached < best.get(other, math.inf):
                best[other], origin[other] = reached, cell
                heapq.heappush(queue, (reached, other))
    way, cell = [(float(target[0]), float(target[1]))], last
    while cell != first:
        way.append(((cell // _SIDE - _CELLS) * _CELL, (cell % _SIDE - _CELLS) * _CELL))
        cell = origin[cell]
    return [(float(start[0]), float(start[1])), *way[::-1]]


def _cell(point) -> int:
    row, column = (min(max(round(part / _CELL), -_CELLS), _CELLS) + _CELLS for part in point[:2])
    return row * _SIDE + column


@functools.cache
def _neighbours(cell: int) -> list[tuple[int, float]]:
    row, column = divmod(cell, _SIDE)
    steps = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]
    return [
        ((row + i) * _SIDE + column + j, math.hypot(i, j))
        for i, j in steps
        if 0 <= row + i < _SIDE and 0 <= column + j < _SIDE
    ]
