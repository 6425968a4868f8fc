"""worldmodel imagine: train an actor for a sentence in a trained model's imagination."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from scripts.assemble import (
    env_factories,
    evaluation_options,
    look_at,
    make_policy,
    policy_options,
    with_checkpoint,
)
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

    from policies.evaluate import evaluate, format_table
    from policies.imagination_run import train_on_sentence
    from worldmodel.data import EpisodeStore
    from worldmodel.progress import Progress
    from worldmodel.provenance import write_json

    out = console()
    progress, plain = Progress(out), OmegaConf.to_container(config)
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, folder / "config.yaml")
    fabric = Fabric(accelerator="auto", devices=1)
    data = config.data or agent.config.get("data") or agent.path.parents[1] / "data"
    store = EpisodeStore.open(data)
    try:
        trained = train_on_sentence(agent, store, config.instruction, plain, folder, fabric, progress)
    finally:
        store.close()
    make_vector, make_env = env_factories(config)
    interface, neutral_action = look_at(make_env)
    names = list(dict.fromkeys(["actor", *config.eval.baselines]))
    result = evaluate(
        {
            name: make_policy(name, policy_options(name, config), trained, interface, neutral_action, config.seed)
            for name in names
        },
        make_vector,
        **evaluation_options(config),
        context={
            "command": " ".join(["worldmodel imagine", *overrides]),
            "policy": "actor",
            "checkpoint": str(trained.path),
            "config": plain,
        },
        progress=progress,
    )
    path = write_json(folder / "eval.json", result)
    out.print(format_table(result, {"results": path, "checkpoint": trained.path}))


if __name__ == "__main__":
    main()
