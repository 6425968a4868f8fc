"""The whole of `worldmodel adapt`: goes on training a checkpoint's model on other episodes, and says what that took."""

from __future__ import annotations

from pathlib import Path

import torch

from policies.adaptation import Adaptation
from policies.agent import Agent
from policies.run import Run
from policies.scales import see_blobs
from policies.vla.agent import VLAAgent
from policies.vla.chunks import ChunkSampler
from policies.vla.imitation import ImitationRun, action_error
from worldmodel.adaptation import Method
from worldmodel.checkpoint import find_checkpoint, read_meta
from worldmodel.data import EpisodeStore, WindowSampler
from worldmodel.progress import Progress
from worldmodel.provenance import commit, machine, versions, write_json

# Learning rates, where the config has none: few weights stand larger steps than all of them (Hu et al. 2022, appendix
# D). Usual values, not tuned here.
RATES = {"full": 3e-4, "lora": 1e-3, "prefix": 3e-3, "frozen": 1e-3}
WINDOWS = 128  # of held-out episodes, or steps of them, that losses are measured on
AS_TRAINED = ("batch_size", "average_rate")  # the keys that are the base's own where they are null
METHOD = ("rank", "alpha", "prefix_tokens", "encoder_rank")
KEPT = ("env", "eval", "logging", "data", "run", "resume", "seed")  # what a run's config has whatever its base's has


def adapt(
    settings: dict,
    folder: Path,
    agent: Agent | VLAAgent,
    make_vector,
    progress: Progress,
    fabric,
    captions=None,
) -> Agent | VLAAgent | None:
    """Adapt the model of `agent`, then actor and critic in its imagination where it is a world model; write
    `folder/adapt.json`.

    A world model keeps its encoder, its latents' units and its scales, unless every weight is trained: the actor, the
    critic and the decoder read the latents that they know. `full` trains everything as `worldmodel train` does.

    Args:
        settings: resolved, of configs/adapt.yaml with those of the checkpoint's run below.
        folder: the run folder; with `resume`, it is gone on with, to the same numbers.
        agent: of the checkpoint; it is changed.
        make_vector: `make_vector(count, workers=0)` gives a vector env; for a world model.
        progress: bars.
        fabric: a launched `lightning_fabric.Fabric`.
        captions: see `ImitationRun`; for a policy.

    Returns:
        the adapted agent, read from its checkpoint; None beside the first process.

    Raises:
        Diverged, CheckpointError, ValueError, OSError: with what to do.
    """
    config, method = run_config(settings, agent), method_of(settings)
    torch.manual_seed(settings["seed"])
    store = EpisodeStore.open(config["data"])
    try:
        begin = Adaptation(agent, method, settings["adapter"] == "separate", store)
        if isinstance(agent, VLAAgent):
            run = ImitationRun(config, folder, store, progress, fabric, captions, begin)
        else:
            run = Run(config, folder, make_vector, progress, fabric, begin)
            run.fill_features()
        try:
            agent.config = config
            before = held_out_losses(agent, run.store, config)
            if settings["resume"]:
                run.restore()
            run.go()
            if not run.first:
                return None
            adapted = type(agent).load(folder, fabric.device)
            after = held_out_losses(adapted, run.store, config)
        finally:
            run.close()
    finally:
        store.close()
    seconds = {"model": run.seconds} if isinstance(run, ImitationRun) else dict(run.profile)
    report = report_of(begin, find_checkpoint(folder), config, {"before": before, "after": after}, seconds)
    write_json(folder / "adapt.json", report)
    progress.line(as_text(report))
    return adapted


def method_of(settings: dict) -> Method:
    """What the settings say of the method."""
    return Method(settings["method"], **{key: settings[key] for key in METHOD})


def run_config(settings: dict, agent: Agent | VLAAgent) -> dict:
    """The config of the run that trains, and of its checkpoints: the base's, with what `settings` say in the base's own
    words (a world model's group `training`) and what they say of adapting under `adapt`.

    Raises:
        ValueError: a choice is none of the known ones, or the base's actor does not act for a reward.
    """
    if settings["adapter"] not in ("merged", "separate"):
        raise ValueError(f"adapter={settings['adapter']} is not one of merged, separate")
    policy, method = isinstance(agent, VLAAgent), method_of(settings)
    own = agent.config if policy else agent.config["training"]
    settings = settings | {key: own[key] for key in AS_TRAINED if settings[key] is None}
    rate = settings["optimizer"]["learning_rate"]
    settings["optimizer"] = settings["optimizer"] | {"learning_rate": RATES[method.name] if rate is None else rate}
    config = {key: value for key, value in settings.items() if key in agent.config or key in KEPT}
    config["adapt"] = {key: settings[key] for key in ("method", *METHOD, "adapter", "updates", "behavior_updates")}
    if policy:
        return config
    if settings["behavior_updates"] and (sentence := read_meta(agent.path).get("sentence")):
        raise ValueError(
            f"the actor in {agent.path} was trained on the sentence {sentence!r}, and there is no reward to go on "
            "with: set behavior_updates=0, and train another by worldmodel imagine checkpoint=<the adapted run>"
        )
    training = own | {key: settings[key] for key in ("optimizer", "fabric", *AS_TRAINED)}
    training |= {
        "pretrain": {"updates": settings["updates"]},
        "imagine": {"updates": settings["behavior_updates"]},
        "online": own["online"] | {"rounds": 0},
        "sigreg_boost": 1.0,  # the latents are there
        "validation_episodes": 0,
        "compile": False,
    }
    if "goal_value" in config:
        config["goal_value"] = config["goal_value"] | {"updates": settings["behavior_updates"]}
    return config | {"training": training}


@torch.no_grad()
def held_out_losses(agent: Agent | VLAAgent, store: EpisodeStore, config: dict) -> dict[str, float] | None:
    """The losses of `WINDOWS` windows (a world model's) or steps (a policy's, with the mean `action_error` in units of
    [-1, 1]) of episodes that are not trained on; None where there is only one. Latents' are in units of their variance,
    rewards' of that of the rewards that the base was trained on."""
    if len(store) < 2:
        return None
    model, generator = agent.model, torch.Generator(agent.model.device).manual_seed(config["seed"])
    training = model.training
    model.eval()
    if isinstance(agent, VLAAgent):
        chunk, sentence, successful = config["vla"]["chunk"], config["instruction"], config["successful"]
        try:
            sampler = ChunkSampler(store, chunk, WINDOWS, config["seed"], "held_out", sentence, successful)
        except ValueError:  # none of the held-out episodes succeeded
            return None
        chunks = sampler.sample()
        observation = {key: value.to(model.device) for key, value in chunks.observation.items()}
        said = model.instructions.read(chunks.sentences, model.device)
        loss = model.loss(observation, said, chunks.actions.to(model.device), chunks.mask.to(model.device), generator)
        losses = {"loss": loss, "action_error": action_error(model, chunks, generator)}
    else:
        see_blobs(store, model)
        sampler = WindowSampler(store, config["training"]["window"], WINDOWS, config["seed"], "held_out")
        losses = model({key: value.to(model.device) for key, value in sampler.sample().items()}, generator)
    model.train(training)
    return {name: float(value) for name, value in losses.items()}


def report_of(begin: Adaptation, checkpoint: Path, config: dict, held_out: dict, seconds: dict) -> dict:
    """`adapt.json`: what was trained, how much of the model that is, what it takes on disk, how long it took
    (`seconds`, by kind of work), and what it gained."""
    return {
        "method": begin.belongs.to_dict()["method"],
        "base": begin.belongs.base,
        "base_identity": begin.belongs.identity,
        "checkpoint": str(checkpoint),
        "adapter": config["adapt"]["adapter"],
        "file": str(checkpoint / begin.file),
        "trained_parameters": begin.trained,
        "parameters": begin.parameters,
        "share": begin.trained / begin.parameters,
        "kilobytes": (checkpoint / begin.file).stat().st_size / 1000,
        "updates": config["adapt"]["updates"],
        "seconds": seconds,
        "held_out": held_out,
        "config": config,
        "machine": machine(),
        "commit": commit(),
        "versions": versions(),
    }


def as_text(report: dict) -> str:
    """A report for people."""
    before, after = report["held_out"]["before"], report["held_out"]["after"]
    said = (
        f"{report['method']['name']}: {report['trained_parameters']:,} of {report['parameters']:,} weights trained "
        f"({report['share']:.2%}) in {sum(report['seconds'].values()):.0f} s; {report['kilobytes']:,.0f} kB in "
        f"{report['file']}"
    )
    if before and after:
        changes = (f"{name} {before[name]:.3g} to {after[name]:.3g}" for name in before if name in after)
        said += f"\nheld-out episodes: {', '.join(changes)}"
    return said
