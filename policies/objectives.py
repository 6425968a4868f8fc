"""From the config group `objective` to what a plan is scored by, episode by episode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from policies.goals import Goals
from policies.planners.objective import Objective, RewardObjective, WeightedSum
from policies.policy import Observation
from policies.sentences import Sentences

if TYPE_CHECKING:
    from policies.agent import Agent

NAMES = ("reward", "goal_image", "instruction")


class Source(Protocol):
    """What gives the objective of the episodes that begin with an observation."""

    def objective(self, observation: Observation) -> Objective: ...


class Rewards:
    """As much reward as possible, in every episode: the agent's critic stands for what comes after a plan."""

    def __init__(self, agent: Agent):
        behavior = agent.behavior
        self._objective = RewardObjective(
            behavior.config.discount,
            value=lambda beliefs, latents: behavior.value(agent.model.features(beliefs, latents), slow=True),
            disagreement_penalty=behavior.config.disagreement_penalty * float(agent.model.transition.reward_scale),
        )

    def objective(self, observation: Observation) -> RewardObjective:
        """The same, whatever is observed."""
        return self._objective


class Weighted:
    """A weighted sum of others."""

    def __init__(self, terms: list[tuple[float, Source]]):
        self.terms = terms

    def objective(self, observation: Observation) -> WeightedSum:
        """The sum of the others' objectives."""
        return WeightedSum([(weight, source.objective(observation)) for weight, source in self.terms])


def weights_of(options: Mapping) -> dict[str, float]:
    """Which objectives count, and how much: those of `weighted` that are not 0, or the one that is named.

    Raises:
        ValueError: there is no such objective, or nothing is left of a weighted one.
    """
    if options["name"] in NAMES:
        return {options["name"]: 1.0}
    if options["name"] != "weighted":
        raise ValueError(f"objective={options['name']!r} is not one of {', '.join(NAMES)}, weighted")
    weights = {name: float(options["weights"][name]) for name in NAMES if options["weights"].get(name)}
    if not weights:
        raise ValueError(f"objective=weighted needs a weight that is not 0: objective.weights.{NAMES[0]}=1")
    return weights


def source_of(agent: Agent, options: Mapping) -> Source:
    """What the config group `objective` means for an agent.

    Raises:
        ValueError: an unknown objective, or one that the agent's model cannot judge.
    """
    makers = {
        "reward": lambda: Rewards(agent),
        "goal_image": lambda: Goals(agent, options.get("image"), options.get("learned_distance", True)),
        "instruction": lambda: Sentences(agent, options.get("text")),
    }
    terms = [(weight, makers[name]()) for name, weight in weights_of(options).items()]
    return terms[0][1] if options["name"] != "weighted" else Weighted(terms)
