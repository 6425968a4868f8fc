"""worldmodel imagine: train an actor for a sentence in a trained model's imagination."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from scripts.assemble import env_factories, look_at, with_checkpoint
from scripts.help import console
from scripts.settings import SettingsError
from scripts.verb import resolved, verb

BASELINES = {"random": "RandomPolicy", "hold_still": "HoldStillPolicy"}


@verb("imagine")
def main(config: DictConfig, folder: Path, overrides: list[str]) -> None:
    """Train, save in `folder`, and write `folder/eval.json` with the env's own reward."""
    if config.checkpoint is None or not config.instruction:
        raise SettingsError('give checkpoint=<run folder> and instruction="<a sentence>"')
    config, agent = with_checkpoint(config, overrides)
    config = resolved(config)

    from lightning_fabric import Fabric

    from policies import baselines
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
    interface, neutral = look_at(make_env)
    policies = {"actor": trained.policy("actor", config.seed)}
    for name in config.eval.baselines:
        options = {"seed": config.seed} if name == "random" else {"neutral_action": neutral}
        policies[name] = getattr(baselines, BASELINES[name])(interface=interface, **options)
    result = evaluate(
        policies,
        make_vector,
        episodes=config.eval.episodes,
        seed=config.eval.seed,
        envs=config.eval.envs,
        confidence=config.eval.confidence,
        max_steps=config.eval.get("max_steps"),
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
