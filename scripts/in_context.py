"""Does a world model adapt to other dynamics within an episode? `python -m scripts.in_context checkpoint=<run folder>
[other=<run folder>] [env.vary={gain:[0.5,2]}] [seen=1,2,4,8,16] [horizon=10] [episodes=128] [steps=64] [envs=8] [seeds=0]
[out=results/in_context/<env>.json]`.

Runs fresh episodes whose dynamics vary, and the same seeds with those that the env has, under the random policy that
explored for the checkpoint. In both, it dreams the same steps after few and after many of the frames before them. Frames tell
velocities too, so what the history says of the dynamics is what varied episodes gain beyond the usual ones, and what a model
`other` that was trained without variation does not gain. Also reads the episodes' factors from the belief. Without
`env.vary`, it is the checkpoint's own. Writes the JSON and prints a table; no weight changes.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
DEFAULTS = {"checkpoint": "", "other": "", "env.vary": "", "seen": "1,2,4,8,16", "horizon": "10", "episodes": "128",
            "steps": "64", "envs": "8", "seeds": "0", "out": ""}  # fmt: skip
FIRST_SEED = 500_000  # of the episodes: no training and no evaluation takes these


def main() -> None:
    """Measure, print the table, save."""
    import numpy as np

    from policies.vla.proposals import load_world_model
    from scripts.settings import slug
    from worldmodel.provenance import result_json, write_json

    given = dict(word.partition("=")[::2] for word in sys.argv[1:])
    if not given.get("checkpoint") or set(given) - set(DEFAULTS):
        sys.exit("usage: " + " ".join((__doc__ or "").split("`")[1].split()))
    settings = DEFAULTS | given
    try:
        sizes = {key: int(settings[key]) for key in ("horizon", "episodes", "steps", "envs")}
        seen, seeds = ([int(number) for number in settings[key].split(",")] for key in ("seen", "seeds"))
        agents = {name: load_world_model(settings[name]) for name in ("checkpoint", "other") if settings[name]}
        vary = _vary(settings["env.vary"], agents["checkpoint"].config["env"])
        require_same_env(agents)
        reports = measure(agents, vary, seen, seeds, **sizes)
    except (ValueError, OSError) as error:
        sys.exit(f"scripts.in_context: {error}")
    env_id = agents["checkpoint"].config["env"]["id"]
    result = result_json(
        f"{env_id}: share of the latent error of dreams (mean over 1 to {sizes['horizon']} steps) that {max(seen)} frames "
        f"of history take away, against two, in episodes of other {', '.join(vary)}",
        " ".join(["python -m scripts.in_context", *sys.argv[1:]]),
        seeds,
        [report["gain"] for report in reports["checkpoint"]["varied"]],
        None,
        vary=vary,
        **sizes,
        models={
            name: {
                "checkpoint": str(agent.path),
                "trained_with": agent.config["env"].get("vary"),
                **{dynamics: _mean(runs) for dynamics, runs in reports[name].items()},
                "gains": {dynamics: [run["gain"] for run in runs] for dynamics, runs in reports[name].items()},
            }
            for name, agent in agents.items()
        },
    )
    path = write_json(settings["out"] or ROOT / "results" / "in_context" / f"{slug(env_id)}.json", result)
    print(table(result["models"]))
    for name, model in result["models"].items():
        gains = {dynamics: float(np.mean(values)) for dynamics, values in model["gains"].items()}
        print(
            f"{name}: history takes away {gains['varied']:.1%} of the error, {gains['usual']:.1%} in the usual dynamics"
        )
    print(path)


def measure(
    agents: dict, vary: dict, seen: list[int], seeds: list[int], horizon: int, episodes: int, steps: int, envs: int
) -> dict[str, dict[str, list[dict]]]:
    """`in_context_report` of each agent by its name, of `varied` and of `usual` dynamics, one for each of `seeds`. All
    agents dream the same episodes, `episodes` of `steps` steps for each seed, run in `envs` envs side by side."""
    from worldmodel.in_context import in_context_report
    from worldmodel.progress import Progress

    progress = Progress()
    reports = {name: {"varied": [], "usual": []} for name in agents}
    for seed in seeds:
        for dynamics, varied in (("varied", vary), ("usual", None)):
            with progress.phase(dynamics, episodes, "episodes") as bar:
                fresh = fresh_episodes(agents["checkpoint"], varied, seed, episodes, steps, envs, bar)
            for name, agent in agents.items():
                reports[name][dynamics].append(in_context_report(agent.model, fresh, seen, horizon))
    return reports


def fresh_episodes(agent, vary: dict | None, seed: int, count: int, steps: int, rows: int, bar) -> list[dict]:
    """Episodes of the agent's env with the dynamics `vary`, as its run explored them: the starts and the actions hang on
    `seed` alone, not on the dynamics."""
    import envs
    from policies.baselines import RandomPolicy
    from policies.collect import is_broad
    from policies.rollout import rollout

    exploring = agent.config.get("training", {}).get("collect", {})
    options = {key: value for key, value in exploring.get("policy", {}).items() if value is not None}
    broad, found = exploring.get("broad_fraction", 0.0), []
    first = FIRST_SEED + seed * count
    with envs.make_vector(min(rows, count), **agent.config["env"] | {"vary": vary}) as vector:
        policy = RandomPolicy(interface=agent.interface, seed=first, **options)
        broad *= vector.starts_broad

        def start(of: int) -> dict | None:
            return {"broad": True} if is_broad(of, broad) else None

        for episode in rollout(policy, vector, range(first, first + count), start, max_steps=steps, name="random"):
            found.append(episode)
            bar.advance(1)
    return found


def require_same_env(agents: dict) -> None:
    """Raise ValueError naming every respect in which the agents are of different envs, but for how dynamics varied."""
    from policies.vla.proposals import SAME

    first, *others = agents.values()
    for other in others:
        pairs = [("env.id", first.config["env"]["id"], other.config["env"]["id"])]
        pairs += [(name, getattr(first.interface, name), getattr(other.interface, name)) for name in SAME]
        differing = [f"{name} {mine} and {theirs}" for name, mine, theirs in pairs if mine != theirs]
        if differing:
            raise ValueError(f"the two checkpoints are of different envs: {'; '.join(differing)}")


def table(models: dict) -> str:
    """What each of `models` (as in the JSON) reaches by the number of frames that it has seen, a measure a row."""
    counts = list(next(iter(models.values()))["varied"]["frames"])
    width = max(len("checkpoint"), *map(len, models))
    lines = [f"{'frames seen':<{width + 32}}" + "".join(f"{count:>8}" for count in counts)]
    for name, model in models.items():
        for dynamics in ("varied", "usual"):
            frames = model[dynamics]["frames"]
            rows = [
                (what, [frames[count].get(what) for count in counts])
                for what in ("latent_error", "reward_r2", "state_r2")
            ]
            names = frames[counts[0]].get("probe", {})
            rows += [(f"probe_r2 {each}", [frames[count]["probe"][each] for count in counts]) for each in names]
            for what, values in rows:
                if values[0] is not None:
                    numbers = "".join(f"{value:8.3f}" for value in values)
                    lines.append(f"{name:<{width}}  {dynamics:<8}{what:<22}{numbers}")
    return "\n".join(lines)


def _vary(text: str, env: dict) -> dict:
    """What the command line says of `env.vary`, else the checkpoint's own.

    Raises:
        ValueError: it can't be read, or neither says anything."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    from envs.dynamics import check_vary

    try:
        vary = OverridesParser.create().parse_override(f"vary={text}").value() if text else env.get("vary")
    except HydraException as error:
        raise ValueError(f"env.vary={text} can't be read: {str(error).splitlines()[0]}") from error
    if vary is None:
        raise ValueError(
            "the checkpoint was trained in one dynamics: say which to test in, as in env.vary={gain:[0.5,2]}"
        )
    return {name: list(limits) for name, limits in check_vary(vary).items()}


def _mean(runs: list):
    """Reports of the same form averaged, number by number."""
    if isinstance(runs[0], dict):
        return {key: _mean([run[key] for run in runs]) for key in runs[0]}
    return sum(runs) / len(runs)


if __name__ == "__main__":
    main()
