"""A scripted expert for every kind of instruction and both embodiments: from the scene to an action, closed loop."""

from __future__ import annotations

import math

import numpy as np

from envs.tabletop import goals
from envs.tabletop.instructions import Instruction
from envs.tabletop.moves import ARRIVED, Moves, still
from envs.tabletop.scene import Scene


class Expert:
    """Follows one instruction.

    Args:
        instruction: what to do.
        noise: standard deviation of the Gaussian noise added to each action.
        rng: where the noise comes from; needed where there is any.
    """

    def __init__(self, instruction: Instruction, noise: float = 0.0, rng: np.random.Generator | None = None):
        if noise and rng is None:
            raise ValueError(f"noise={noise} needs a generator: rng=np.random.default_rng(seed)")
        self.instruction, self._noise, self._rng = instruction, noise, rng
        self._moves = Moves()
        self._goal: goals.Goal | None = None
        self._aim: goals.Goal | None = None  # the goal, or a detour to it

    def act(self, now: Scene) -> np.ndarray:
        """The action for the scene as it is now: float32 [2] for the pusher, [4] for the gripper."""
        kind, index = self.instruction.kind, now.index(self.instruction.objects[0])
        if index is None or (kind == "reach" and now.tool.kind == "pusher" and self.instruction.satisfied(now)):
            action = still(now)
        elif kind == "reach":
            action = self._moves.reach(now, index)
        elif kind == "lift":
            action = self._moves.lift(now, now.objects[index])
        else:
            action = self._push(now)
        self._moves.step()
        if self._noise:
            action = action + self._rng.normal(0.0, self._noise, size=action.shape)
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    def _push(self, now: Scene) -> np.ndarray:
        if self._goal is None or self._moves.thinks:
            found = goals.goal(self.instruction, now, self._goal)
            self._aim = found or (goals.detour(now, self._goal) if self._goal else None) or self._goal
            self._goal = found or self._goal
        satisfied = self.instruction.satisfied(now)
        if self._aim is None or (satisfied and self.instruction.kind in ("push_next_to", "separate")):
            return still(now)
        left = math.dist(now.objects[self._aim.index].position[:2], self._aim.position)
        return still(now) if satisfied and left < ARRIVED else self._moves.push(now, self._aim)
