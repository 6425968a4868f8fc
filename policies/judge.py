"""What candidate plans are worth: imagined from a belief, and scored by an objective."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from policies.objectives import source_of
from policies.planners.objective import Objective
from policies.policy import Observation
from worldmodel.compilation import Compiled
from worldmodel.imagination import imagine
from worldmodel.precision import reduced_copy
from worldmodel.transformer import Memory

if TYPE_CHECKING:
    from policies.agent import Agent


class Judge:
    """Scores plans in a copy of an agent's model as it is now.

    Attributes:
        model: that copy.
        step: its imagined step, compiled where that was asked for.

    Args:
        agent: whose model imagines.
        objective: the config group `objective`.
        compile: compile imagined steps.

    Raises:
        ValueError: an unknown objective, or one that the agent's model cannot judge.
    """

    def __init__(self, agent: Agent, objective: Mapping, compile: bool = False):
        self.source, self.compile = source_of(agent, objective), compile
        self.model = reduced_copy(agent.model)
        self.step = self.model.step
        if compile:
            self.step = Compiled(self.step, lambda belief, latent, action, memory, tail: [
                belief, latent, action, *tail.keys, *tail.values,
            ])  # fmt: skip

    def objective(self, observation: Observation) -> Objective:
        """Of the episodes that an observation of B rows is from; raises ValueError where it does not say what is
        wanted."""
        return self.source.objective(observation)

    def score(self, memory: Memory, objective: Objective, actions: Tensor) -> Tensor:
        """Scores `[B, C]` of candidate plans `[B, C, H, A]` for the B rows of a memory."""
        rows, candidates, horizon = actions.shape[:3]
        if candidates == 1 and self.compile:  # a single row would be compiled apart
            return self.score(memory, objective, actions.expand(-1, 2, -1, -1))[:, :1]
        dream = imagine(self.model, memory, actions.flatten(0, 1), horizon, candidates, "last", self.step)
        return objective(dream).view(rows, candidates)
