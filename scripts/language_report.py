"""Is language used? `python -m scripts.language_report checkpoint=<run folder> [policy=planner] [episodes=10] [steps=250]`.

Runs a policy in the env of its run with every instruction that each scene allows, with other words and with none, and writes
`language.json` beside the checkpoint's run: what was asked for, by what came about.
"""

from __future__ import annotations

import sys
from pathlib import Path

FIRST_SEED = 10_000  # of the scenes: an evaluation's


def main() -> None:
    """Run, print the table, save."""
    import envs
    from policies.agent import Agent
    from policies.language_report import as_table, language_report
    from worldmodel.progress import Progress
    from worldmodel.provenance import commit, machine, versions, write_json

    given = {"policy": "planner", "episodes": "10", "steps": "250"}
    given |= dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    if set(given) != {"policy", "episodes", "steps", "checkpoint"}:
        sys.exit((__doc__ or "").splitlines()[0].removeprefix("Is language used? "))
    agent = Agent.load(given["checkpoint"])
    options = {"objective": {"name": "instruction"}} if given["policy"] == "planner" else {}
    env = envs.make(**agent.config["env"])
    seeds = range(FIRST_SEED, FIRST_SEED + int(given["episodes"]))
    progress = Progress()
    try:
        with progress.phase("language", len(seeds), "scenes") as bar:
            policy = agent.policy(given["policy"], **options)
            report = language_report(policy, env, seeds, int(given["steps"]), lambda: bar.advance(1))
    finally:
        env.close()
    made = {"command": " ".join(["python -m scripts.language_report", *sys.argv[1:]]), "seeds": list(seeds)}
    made |= {"machine": machine(), "commit": commit(), "versions": versions()}
    folder = Path(given["checkpoint"])
    path = write_json((folder if folder.is_dir() else folder.parent) / "language.json", report | made)
    print(as_table(report))
    print(
        f"done of what was asked {report['followed']:.2f}, in other words {report['paraphrased']:.2f}, of what was not "
        f"{report['else']:.2f}, unasked {report['blank']:.2f}: {path}"
    )


if __name__ == "__main__":
    main()
