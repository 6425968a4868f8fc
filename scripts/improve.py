"""worldmodel improve: train a policy's head in a world model's imagination, close to the demonstrations, and evaluate
it."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from scripts.assemble import evaluate_trained, launched, load_agent, with_objective
from scripts.settings import SettingsError, merge_with_saved
from scripts.train import is_first_process, settings_of
from scripts.verb import resolved, verb

SHARED = ("env", "eval", "vla", "vision_language")  # what the policy's run says; every other key is this verb's own


@verb("improve")
def main(config: DictConfig, folder: Path, overrides: list[str]) -> None:
    """Train in `folder`, from the policy's weights or, with `resume`, from the run's last checkpoint under its own
    settings; write `folder/eval.json`."""
    if config.resume:
        config = merge_with_saved(settings_of(folder), config, overrides)
    elif is_first_process() and (folder / "config.yaml").exists():
        raise SettingsError(
            f"{folder} holds a run. To go on with it: resume=true run={folder}; else name another folder"
        )
    if config.checkpoint is None or config.world_model is None:
        raise SettingsError("give checkpoint=<run of worldmodel imitate> and world_model=<run of worldmodel train>")

    from policies.vla.agent import VLAAgent
    from policies.vla.proposals import load_world_model
    from worldmodel.checkpoint import find_checkpoint

    agent = load_agent(config.checkpoint)
    if not isinstance(agent, VLAAgent):
        raise SettingsError(f"checkpoint={config.checkpoint} is no vision-language-action policy: see world_model=")
    if not config.resume:
        saved = OmegaConf.create({key: agent.config[key] for key in SHARED if key in agent.config})
        config = merge_with_saved(saved, config, overrides)
        for key in ("checkpoint", "world_model"):  # the one that there is now, whatever is trained there later
            config[key] = str(find_checkpoint(config[key]))
        for key in ("data", "instruction"):
            config[key] = agent.config.get(key) if config[key] is None else config[key]
    config.run = str(folder)
    config = resolved(with_objective(config))

    from policies.vla.improvement import Imagination, ImprovementRun
    from worldmodel.data import EpisodeStore

    plain, fabric, progress = launched(config, folder)
    world = load_world_model(config.world_model, fabric.device)
    with EpisodeStore.open(config.data) as store, EpisodeStore.open(config.data) as seen:
        horizon = config.horizon or agent.model.config.chunk
        imagination = Imagination(world, seen, plain["objective"], horizon, config.compile)
        run = ImprovementRun(plain, folder, store, progress, fabric, agent, imagination)
        try:
            if config.resume:
                run.restore()
            improved = run.go()
        finally:
            run.close()
    if fabric.is_global_zero:
        evaluate_trained(config, "vla", improved, folder, ["worldmodel improve", *overrides], progress)


if __name__ == "__main__":
    main()
