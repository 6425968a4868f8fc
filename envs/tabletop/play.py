"""Play: a scripted hand that is asked nothing, so that more happens in task-free data than by chance."""

from __future__ import annotations

import math

import numpy as np

from envs.tabletop.goals import Goal, away
from envs.tabletop.moves import ARRIVED, Moves, still
from envs.tabletop.scene import TABLE, TOOL_RADIUS, Scene

_PUSHES, _LIFTS, _GOES = 0.65, 0.1, 0.15  # chances of what is done next; the rest drifts with one action
_FAR = (0.15, 0.8)  # metres that an object is pushed, from and to
# Calls after which something else is done, at most; at least half as many, unless it is done before.
_PATIENCE = {"push": 30, "lift": 30, "go": 8, "drift": 6}
_ROOM = TABLE - TOOL_RADIUS


class Player:
    """Pushes one thing after another somewhere, now and then lifts one (the gripper), goes somewhere or drifts: as the
    "play" data of OGBench (Park et al. 2025). No instruction and no reward enters.

    Args:
        rng: everything random comes from it.
    """

    def __init__(self, rng: np.random.Generator):
        self._rng = rng
        self._left = 0
        self._does = ""
        self._aim: Goal | None = None
        self._place, self._drift = np.zeros(2), np.zeros(0)
        self._moves = Moves()

    def act(self, now: Scene) -> np.ndarray:
        """The action for the scene as it is now: float32 [2] for the pusher, [4] for the gripper. Ask once a step."""
        if self._left <= 0 or self._arrived(now):
            self._draw(now)
        self._left -= 1
        action = self._action(now)
        self._moves.step()
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    def _draw(self, now: Scene) -> None:
        rng, chance = self._rng, self._rng.random()
        lifts = _LIFTS if now.tool.kind == "gripper" else 0.0
        bounds = {"push": _PUSHES, "lift": _PUSHES + lifts, "go": _PUSHES + lifts + _GOES, "drift": 1.0}
        self._does = next(name for name, bound in bounds.items() if chance < bound)
        self._left = int(rng.integers(_PATIENCE[self._does] // 2, _PATIENCE[self._does] + 1))
        self._moves = Moves()
        index = int(rng.integers(len(now.objects)))
        thing = now.objects[index]
        limit = TABLE - thing.radius
        target = np.clip(away(thing, rng.uniform(-math.pi, math.pi), rng.uniform(*_FAR)), -limit, limit)
        self._aim = Goal(index, (float(target[0]), float(target[1])))
        if self._does == "go":
            self._place = rng.uniform(-_ROOM, _ROOM, 2)
        else:
            self._drift = rng.uniform(-1.0, 1.0, len(still(now)))

    def _arrived(self, now: Scene) -> bool:
        if self._does == "push":
            return math.dist(now.objects[self._aim.index].position[:2], self._aim.position) < ARRIVED
        return self._does == "go" and math.dist(now.tool.position[:2], self._place) < ARRIVED

    def _action(self, now: Scene) -> np.ndarray:
        if self._does == "push":
            return self._moves.push(now, self._aim)
        if self._does == "lift":
            return self._moves.lift(now, now.objects[self._aim.index])
        return self._moves.go(now, self._place) if self._does == "go" else self._drift
