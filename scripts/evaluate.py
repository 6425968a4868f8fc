"""worldmodel evaluate: score a policy and the baselines on fixed seeds, or run an eval.json again and compare."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from scripts.assemble import (
    chosen_policy,
    env_factories,
    evaluation_options,
    load_agent,
    look_at,
    make_policy,
    policy_options,
    with_checkpoint,
    with_objective,
)
from scripts.help import console
from scripts.settings import SettingsError, merge_with_saved
from scripts.verb import resolved, verb


@verb("evaluate")
def main(config: DictConfig, folder: Path, overrides: list[str]) -> None:
    """Write `folder/eval.json` and print it as a table; with `from`, say whether it agrees with that file."""
    from policies.evaluate import compare, evaluate, format_table
    from worldmodel.progress import Progress
    from worldmodel.provenance import write_json

    old = None if config["from"] is None else _read(Path(config["from"]))
    if old is None:
        config, agent = with_checkpoint(config, overrides)
        chosen = chosen_policy()
        names = list(dict.fromkeys([chosen, *config.eval.baselines]))
    else:
        config = merge_with_saved(_settings_of(old), config, overrides, own=("run", "from"))
        agent = load_agent(config.checkpoint)
        chosen, names = old["context"].get("policy"), list(old["policies"])
    config = resolved(with_objective(config))
    make_vector, make_env = env_factories(config, names)
    interface, neutral_action = look_at(make_env)
    options = {name: config.policy if name == chosen else policy_options(name, config) for name in names}
    out = console()
    result = evaluate(
        {name: make_policy(name, options[name], agent, interface, neutral_action, config.seed) for name in names},
        make_vector,
        **evaluation_options(config),
        unsolved=config.env.get("goal_image", False),
        fewer=None if old is None else {name: len(old["policies"][name]["episodes"]) for name in names},
        context={
            "command": " ".join(["worldmodel evaluate", *overrides]),
            "policy": chosen,
            "checkpoint": None if agent is None else str(agent.path),
            "config": OmegaConf.to_container(config),
        },
        progress=Progress(out),
    )
    path = write_json(folder / "eval.json", result)
    out.print(format_table(result, {"results": path}))
    if old is not None:
        verdict = compare(old, result)
        out.print(f"{config['from']} {verdict['message']}", markup=False, soft_wrap=True)
        sys.exit(0 if verdict["agrees"] else 1)


def _read(path: Path) -> dict:
    """An eval.json with all that is needed to run it again."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        result["context"]["config"]["env"], result["policies"], result["seeds"]
    except (ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"{path} is no eval.json of worldmodel train or evaluate: {error!r}") from error
    return result


def _settings_of(old: dict) -> DictConfig:
    """The settings under which an eval.json was made."""
    config = OmegaConf.create({"checkpoint": None, **old["context"]["config"]})
    config.checkpoint = old["context"].get("checkpoint") or config.checkpoint
    episodes = max(len(score["episodes"]) for score in old["policies"].values())
    config.eval.update(episodes=episodes, seed=old["seeds"][0], envs=old["rows"], max_steps=old["max_steps"])
    return config


if __name__ == "__main__":
    main()
