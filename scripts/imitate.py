"""worldmodel imitate: learn a vision-language-action policy from demonstrations, and evaluate it."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from scripts.assemble import caption_pool, evaluate_trained, launched
from scripts.settings import SettingsError, merge_with_saved
from scripts.train import env_of, is_first_process, settings_of
from scripts.verb import resolved, verb


@verb("imitate")
def main(config: DictConfig, folder: Path, overrides: list[str]) -> None:
    """Train in `folder`, from the start or, with `resume`, from its last checkpoint under its own settings; write
    `folder/eval.json` where the episodes say which env they are of, or the command line does."""
    if config.resume:
        config = merge_with_saved(settings_of(folder), config, overrides)
    elif is_first_process() and (folder / "config.yaml").exists():
        raise SettingsError(
            f"{folder} holds a run. To go on with it: resume=true run={folder}; else name another folder"
        )
    elif not OmegaConf.is_missing(config, "data"):
        config = merge_with_saved(env_of(config.data), config, overrides)
    config.run = str(folder)
    config = resolved(config)

    from policies.vla.imitation import ImitationRun
    from worldmodel.data import EpisodeStore

    plain, fabric, progress = launched(config, folder)
    store = EpisodeStore.open(config.data)
    try:
        knows_env = "env" in store.meta or any(override.startswith("env.") for override in overrides)
        run = ImitationRun(plain, folder, store, progress, fabric, caption_pool(plain, store, progress))
        try:
            if config.resume:
                run.restore()
            agent = run.go()
        finally:
            run.close()
    finally:
        store.close()
    if not fabric.is_global_zero:
        return
    if not knows_env:
        progress.line(
            f"the episodes in {config.data} don't say which env they are of: worldmodel evaluate checkpoint={folder} "
            "policy=vla env.id=<its id> evaluates the policy there"
        )
        return
    evaluate_trained(config, "vla", agent, folder, ["worldmodel imitate", *overrides], progress)


if __name__ == "__main__":
    main()
