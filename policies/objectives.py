"""From the config group `objective` to what a plan is scored by, episode by episode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from policies.goals import Goals
from policies.planners.objective import CautiousObjective, Objective, RewardObjective, WeightedSum
from policies.policy import Observation
from policies.sentences import Sentences

if TYPE_CHECKING:
    from policies.agent import Agent

NAMES = ("reward", "goal_image", "instruction")


class Source(Protocol):
    """What gives the objective of the episodes that begin with an observation."""

    def objective(self, observation: Observation) -> Objective: ...


class Rewards:
    """As much reward as possible, in every episode: the agent's critic, where it was trained, stands for what comes
    after a plan.

    Args:
        agent: whose critic.
        disagreement_penalty: what one unit of the ensemble's spread costs, in standard deviations of reward; None is
            what it cost the actor in training.
    """

    def __init__(self, agent: Agent, disagreement_penalty: float | None = None):
        behavior = agent.behavior
        if disagreement_penalty is None:
            disagreement_penalty = behavior.config.disagreement_penalty

        def value(beliefs: Tensor, latents: Tensor) -> Tensor:
            return behavior.value(agent.model.features(beliefs, latents), slow=True)

        self._objective = RewardObjective(
            behavior.config.discount,
            value=value if behavior.updates else None,
            disagreement_penalty=disagreement_penalty * float(agent.model.transition.reward_scale),
        )

    def objective(self, observation: Observation) -> RewardObjective:
        """The same, whatever is observed."""
        return self._objective


class Cautious:
    """Another one, which the ensemble's disagreement lowers: see `CautiousObjective`."""

    def __init__(self, source: Source, penalty: float):
        self.source, self.penalty = source, penalty

    def objective(self, observation: Observation) -> CautiousObjective:
        """The other's objective, penalised."""
        return CautiousObjective(self.source.objective(observation), self.penalty)


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
    penalty = options.get("disagreement_penalty")
    makers = {
        "reward": lambda: Rewards(agent, penalty),
        "goal_image": lambda: Goals(agent, options.get("image"), options.get("learned_distance", True)),
        "instruction": lambda: Sentences(agent, options.get("text")),
    }
    terms = []
    for name, weight in weights_of(options).items():
        source = makers[name]()
        terms.append((weight, Cautious(source, penalty) if penalty and name != "reward" else source))
    return terms[0][1] if options["name"] != "weighted" else Weighted(terms)
