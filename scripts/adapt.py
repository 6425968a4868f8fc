"""worldmodel adapt: go on training a checkpoint on other episodes, all of it or by a small adapter, and evaluate it."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from scripts.assemble import caption_pool, env_factories, evaluate_trained, launched, load_agent, with_objective
from scripts.settings import SettingsError, merge_with_saved
from scripts.train import env_of, is_first_process, settings_of
from scripts.verb import resolved, verb

SHARED = ("env", "eval", "logging")  # the groups that the checkpoint's run has too; every other key is this verb's own


@verb("adapt")
def main(config: DictConfig, folder: Path, overrides: list[str]) -> None:
    """Adapt in `folder`, from the start or, with `resume`, from its last checkpoint under its own settings; write
    `folder/adapt.json` and, with the env that the episodes say they are of, or the checkpoint's, `folder/eval.json`."""
    if config.resume:
        config = merge_with_saved(settings_of(folder), config, overrides)
    elif is_first_process() and (folder / "config.yaml").exists():
        raise SettingsError(
            f"{folder} holds a run. To go on with it: resume=true run={folder}; else name another folder"
        )
    if config.checkpoint is None:
        raise SettingsError("give checkpoint=<run folder>: what shall be adapted")
    agent = load_agent(config.checkpoint)
    if not config.resume and not OmegaConf.is_missing(config, "data"):
        saved = OmegaConf.merge(OmegaConf.create(agent.config), {})
        saved.update(env_of(config.data))
        config = merge_with_saved(saved, config, overrides, [key for key in config if key not in SHARED])
    config.run = str(folder)
    config = resolved(with_objective(config))

    from policies.adapt import adapt
    from policies.vla.agent import VLAAgent
    from worldmodel.data import EpisodeStore

    plain, fabric, progress = launched(config, folder)
    captions = None
    if isinstance(agent, VLAAgent):
        with EpisodeStore.open(config.data) as store:
            captions = caption_pool(plain, store, progress)
    make_vector, _ = env_factories(config)
    adapted = adapt(plain, folder, agent, make_vector, progress, fabric, captions)
    if adapted is None:
        return
    towards = OmegaConf.select(config, "objective.name")
    own = "vla" if isinstance(agent, VLAAgent) else "planner" if towards == "goal_image" else "actor"
    evaluate_trained(config, config.act_with or own, adapted, folder, ["worldmodel adapt", *overrides], progress)


if __name__ == "__main__":
    main()
