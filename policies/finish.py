"""What a finished run leaves to look at: eval.json, videos, curves and the table that points at them."""

from __future__ import annotations

from pathlib import Path

from policies.agent import Agent
from policies.baselines import HoldStillPolicy, RandomPolicy
from policies.evaluate import evaluate, format_table
from policies.rollout import Episode, film
from policies.video import record, record_goals
from worldmodel.curves import draw_curves
from worldmodel.provenance import write_json

FILMED_STEPS = 300  # a planner's film of a longer episode takes minutes
GOALS_FILMED = 20  # episodes side by side in one video


def finish(agent: Agent, config: dict, folder: Path, make_vector, neutral_action: list[float], progress) -> dict:
    """Evaluate actor, planner and baselines, film the best, draw the curves.

    Returns:
        `results` (the content of eval.json) and `paths` of everything made.
    """
    options, goals = config["eval"], config["objective"]["name"] == "goal_image"
    names = ["planner"] if goals else ["actor", "planner"] if options["planner_episodes"] else ["actor"]
    policies = {name: agent.policy(name, config["seed"]) for name in names}
    filmed: list[Episode] = []

    def keep(name: str, episode: Episode) -> None:
        if goals and name == "planner" and len(filmed) < GOALS_FILMED:
            filmed.append(episode)

    baselines = {
        "random": RandomPolicy(interface=agent.interface, seed=config["seed"]),
        "hold_still": HoldStillPolicy(interface=agent.interface, neutral_action=neutral_action),
    }
    policies |= {name: baselines[name] for name in options["baselines"]}
    results = evaluate(
        policies,
        make_vector,
        episodes=options["episodes"],
        seed=options["seed"],
        envs=options["envs"],
        confidence=options["confidence"],
        max_steps=options["max_steps"],
        fewer={} if goals else {"planner": options["planner_episodes"]},
        unsolved=goals,
        on_episode=keep,
        context={
            "command": f"worldmodel train run={folder}",
            "policy": next(iter(policies)),
            "checkpoint": str(agent.path) if agent.path else None,
            "config": config,
        },
        progress=progress,
    )
    paths = {"evaluation": write_json(folder / "eval.json", results)}
    trained = max(policies.keys() - baselines.keys(), key=lambda name: results["policies"][name]["return"]["mean"])
    try:
        paths["video"] = film_policy(
            agent, trained, config, folder / "videos" / "final.mp4", make_vector, options["seed"]
        )
    except ValueError as error:  # an env of states alone may have no picture of itself
        progress.line(f"no video: {error}")
    if any("goal" in episode for episode in filmed):
        paths["goals"] = record_goals(filmed, folder / "videos" / "goals.mp4", agent.interface.fps)
    curves = draw_curves(folder / "metrics.jsonl", folder / "curves.png", title=config["env"]["id"])
    paths |= {"curves": curves} if curves else {}
    paths |= {"metrics": folder / "metrics.jsonl", "checkpoint": agent.path}
    return {"results": results, "paths": paths, "table": format_table(results, paths)}


def film_policy(agent: Agent, name: str, config: dict, path: Path, make_vector, seed: int) -> Path:
    """Film one episode of `actor` or `planner`, up to `FILMED_STEPS`, beside what the model sees and dreams."""
    policy = agent.policy(name, config["seed"])
    vector_env = make_vector(1)
    try:
        steps = min(FILMED_STEPS, config["eval"]["max_steps"] or FILMED_STEPS)
        episode, pictures = film(policy, vector_env, seed, max_steps=steps, name=name)
    finally:
        vector_env.close()
    title = f"{config['env']['id']}  {name}  seed {seed}  return {episode['info']['return']:.0f}"
    record(agent.view, episode, path, fps=agent.interface.fps, title=title, pictures=pictures)
    return path
