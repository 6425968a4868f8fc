"""Planners: search over action sequences, by one interface; `build` makes one from its YAML."""

from __future__ import annotations

import difflib
import inspect

from policies.planners.cem import CEM
from policies.planners.gradient import GradientPlanner
from policies.planners.icem import ICEM
from policies.planners.mppi import MPPI
from policies.planners.objective import CautiousObjective, GoalObjective, Objective, RewardObjective, WeightedSum
from policies.planners.planner import Plan, Planner, PlanningError, Score

PLANNERS: dict[str, type[Planner]] = {"mppi": MPPI, "cem": CEM, "icem": ICEM, "gradient": GradientPlanner}

__all__ = [
    "CEM",
    "ICEM",
    "MPPI",
    "PLANNERS",
    "CautiousObjective",
    "GoalObjective",
    "GradientPlanner",
    "Objective",
    "Plan",
    "Planner",
    "PlanningError",
    "RewardObjective",
    "Score",
    "WeightedSum",
    "build",
]


def build(name: str, action_dim: int, discrete: bool = False, **options) -> Planner:
    """A planner by its name in configs/planner, with the options that stand there (and `device`).

    Raises:
        ValueError: no such planner, an option it does not have (with the names that come near), one that is missing, or
            a value that makes no sense.
    """
    if name not in PLANNERS:
        raise ValueError(
            f"no planner is called {name!r}{_nearest(name, list(PLANNERS))}; there are {', '.join(PLANNERS)}"
        )
    known = _options(PLANNERS[name])
    for option in options:
        if option not in known:
            raise ValueError(
                f"planner={name} has no option {option!r}{_nearest(option, list(known))}; it has {', '.join(known)}"
            )
    missing = [option for option, required in known.items() if required and option not in options]
    if missing:
        raise ValueError(f"planner={name} lacks {', '.join(missing)}: see configs/planner/{name}.yaml")
    return PLANNERS[name](action_dim, discrete, **options)


def _options(planner: type[Planner]) -> dict[str, bool]:
    """Names of the keyword options of a planner and its bases, and whether they must be given."""
    parameters = [
        parameter
        for base in planner.__mro__
        if "__init__" in vars(base) and issubclass(base, Planner)
        for parameter in inspect.signature(base.__init__).parameters.values()
    ]
    return {p.name: p.default is p.empty for p in parameters if p.kind is p.KEYWORD_ONLY}


def _nearest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=2)
    return f" (did you mean {' or '.join(close)}?)" if close else ""
