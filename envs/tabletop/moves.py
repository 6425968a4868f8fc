"""What a tool can do with an object, for both embodiments: from the scene to an action, closed loop."""

from __future__ import annotations

import math

import numpy as np

from envs.tabletop import goals
from envs.tabletop.paths import waypoint
from envs.tabletop.scene import TOOL_RADIUS, Object, Scene

_THINK_AGAIN = 5  # control steps between two choices of goal and way
_GAIN = 8.0  # m/s of speed per metre to go
_SLOW, _PUSH_GAIN = 0.12, 4.0  # m/s of the last of a push, and m/s more per metre to go
_ALIGNED, _LOST = 0.03, 0.07  # metres beside the line of a push: to begin with, and to give up at
# Metres of the fingertips over the table: over everything, to push, to grasp (under a plate's top), when lifted.
_FLY, _LOW, _GRASP, _HIGH = 0.42, 0.02, 0.0, 0.25
_OPEN, _CLOSED = 1.0, -1.0
ARRIVED = 0.04  # metres from the goal where a push ends


class Moves:
    """Reaching, pushing and lifting, step by step; it remembers which way it goes."""

    def __init__(self):
        self._steps = 0
        self._pushing = False
        self._way: tuple[float, float] | None = None

    @property
    def thinks(self) -> bool:
        """Goal and way are chosen anew now and then, not at every step."""
        return self._steps % _THINK_AGAIN == 0

    def step(self) -> None:
        """An action was taken."""
        self._steps += 1

    def reach(self, now: Scene, index: int) -> np.ndarray:
        """Towards touching object `index`, the gripper from above."""
        thing = now.objects[index]
        if now.tool.kind == "gripper":
            return self._fly(now, thing.position[:2], thing.position[2] + thing.height + 0.01)
        return self.go(now, thing.position[:2], index)

    def go(self, now: Scene, target, ignored: int | None = None) -> np.ndarray:
        """The way over the table to a place, round all objects but the one that is `ignored`."""
        return _action(now, _towards(now, self._around(now, target, ignored)))

    def lift(self, now: Scene, thing: Object) -> np.ndarray:
        """Grasp `thing` and lift it; the gripper's."""
        x, y, z = now.tool.position
        beside = math.dist((x, y), thing.position[:2])
        slipping = beside < _LOST and thing.position[2] > _LOW  # for a moment not pressed from both sides
        if thing.held or slipping:
            return _action(now, (0.0, 0.0), _GAIN * (_HIGH - z), _CLOSED)
        if beside < _ALIGNED and z < _GRASP + 0.015:
            return _action(now, (0.0, 0.0), _GAIN * (_GRASP - z), _CLOSED)
        return self._fly(now, thing.position[:2], _GRASP, _OPEN)

    def push(self, now: Scene, aim: goals.Goal) -> np.ndarray:
        """Get behind an object, and push it straight."""
        thing, target = now.objects[aim.index], aim.position
        left = math.dist(thing.position[:2], target)
        way = np.subtract(target, thing.position[:2]) / max(left, 1e-6)
        from_thing = np.subtract(now.tool.position[:2], thing.position[:2])
        along = float(from_thing @ way)
        aside = from_thing - along * way
        off = float(np.linalg.norm(aside))
        low = now.tool.kind == "pusher" or now.tool.position[2] < _LOW + 0.03
        near = -along < thing.radius + TOOL_RADIUS + 0.1
        self._pushing = low and along < 0 and near and off < (_LOST if self._pushing else _ALIGNED)
        if self._pushing:
            speed = min(1.0, _SLOW + _PUSH_GAIN * left)
            return _action(now, speed * way - 5.0 * aside, _GAIN * (_LOW - now.tool.position[2]))
        behind = goals.contact_point(thing, target)
        if now.tool.kind == "gripper":
            return self._fly(now, behind, _LOW)
        return self.go(now, behind)

    def _around(self, now: Scene, target, ignored: int | None = None) -> tuple[float, float]:
        if self._way is None or self.thinks or math.dist(self._way, now.tool.position[:2]) < 0.04:
            self._way = waypoint(now, target, ignored)
        return self._way

    def _fly(self, now: Scene, target, height: float, opening: float = _CLOSED) -> np.ndarray:
        """Over everything to `target`, then down to `height`."""
        x, y, z = now.tool.position
        beside = math.dist((x, y), target)
        if beside > 2 * _ALIGNED or (beside > _ALIGNED and z > height + 0.05):
            may_travel = z > _FLY - 0.05 or beside < _ALIGNED
            planar = _towards(now, target) if may_travel else (0.0, 0.0)
            return _action(now, planar, _GAIN * (_FLY - z), opening)
        return _action(now, _towards(now, target), _GAIN * (height - z), opening)


def still(now: Scene) -> np.ndarray:
    """The action that does nothing."""
    return _action(now, (0.0, 0.0), 0.0, _CLOSED)


def _towards(now: Scene, target) -> np.ndarray:
    """The velocity that leads to `target`, at most 1 m/s."""
    velocity = _GAIN * np.subtract(target, now.tool.position[:2])
    return velocity / max(1.0, float(np.linalg.norm(velocity)))


def _action(now: Scene, planar, vertical: float = 0.0, opening: float = _CLOSED) -> np.ndarray:
    planar = np.asarray(planar, float)
    return planar if now.tool.kind == "pusher" else np.array([*planar, vertical, opening])
