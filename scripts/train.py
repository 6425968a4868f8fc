"""worldmodel train: collect, pretrain, imagine, improve online, evaluate, record."""

from __future__ import annotations

import os
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from scripts.assemble import EXPERT, env_factories, with_objective
from scripts.settings import SettingsError, merge_with_saved
from scripts.verb import resolved, verb


@verb("train")
def main(config: DictConfig, folder: Path, overrides: list[str]) -> None:
    """Train in `folder`, from the start or, with `resume`, from its last checkpoint under its own settings."""
    if config.resume:
        config = merge_with_saved(settings_of(folder), config, overrides)
    elif is_first_process() and (folder / "config.yaml").exists():
        raise SettingsError(
            f"{folder} holds a run. To go on with it: resume=true run={folder}; else name another folder"
        )
    elif config.data is not None:
        config = merge_with_saved(env_of(config.data), config, overrides)
    config = with_objective(config)
    config.run = str(folder)

    from policies.pipeline import train

    train(resolved(config), folder, *env_factories(config, [EXPERT] if config.training.collect.expert else []))


def is_first_process() -> bool:
    """Whether this is the process that begins the run: the others of a distributed one find its folder in use."""
    return int(os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or 0) == 0


def env_of(data: str) -> DictConfig:
    """The env settings that a folder of episodes was recorded with."""
    from worldmodel.data import EpisodeStore

    store = EpisodeStore.open(data)
    try:
        return OmegaConf.create({"env": store.meta["env"]} if "env" in store.meta else {})
    finally:
        store.close()


def settings_of(folder: Path) -> DictConfig:
    """The settings that a run was begun with."""
    path = folder / "config.yaml"
    if not path.is_file():
        raise SettingsError(f"there is no run in {folder}: name the one to go on with, resume=true run=<folder>")
    return OmegaConf.load(path)


if __name__ == "__main__":
    main()
