"""worldmodel imagine: train an actor for a sentence in a trained model's imagination."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from scripts.assemble import evaluate_trained, with_checkpoint
from scripts.help import console
from scripts.settings import SettingsError
from scripts.verb import resolved, verb


@verb("imagine")
def main(config: DictConfig, folder: Path, overrides: list[str]) -> None:
    """Train, save in `folder`, and write `folder/eval.json` with the env's own reward."""
    if config.checkpoint is None or not config.instruction:
        raise SettingsError('give checkpoint=<run folder> and instruction="<a sentence>"')
    config, agent = with_checkpoint(config, overrides)
    config = resolved(config)

    from lightning_fabric import Fabric

    from policies.imagination_run import train_on_sentence
    from worldmodel.data import EpisodeStore
    from worldmodel.progress import Progress

    progress, plain = Progress(console()), OmegaConf.to_container(config)
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, folder / "config.yaml")
    fabric = Fabric(accelerator="auto", devices=1)
    data = config.data or agent.config.get("data") or agent.path.parents[1] / "data"
    store = EpisodeStore.open(data)
    try:
        trained = train_on_sentence(agent, store, config.instruction, plain, folder, fabric, progress)
    finally:
        store.close()
    evaluate_trained(config, "actor", trained, folder, ["worldmodel imagine", *overrides], progress)


if __name__ == "__main__":
    main()
