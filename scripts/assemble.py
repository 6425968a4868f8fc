"""Puts together what several verbs need: factories of envs, and policies by their names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from scripts.settings import SettingsError, merge_with_saved

if TYPE_CHECKING:
    from policies.agent import Agent
    from policies.policy import Policy
    from policies.vla.agent import VLAAgent
    from worldmodel.interface import Interface

EXPERT = "expert"  # the choice of the group `policy` that needs what policies don't see
OWN = ("run", "resume", "seed", "data", "task")  # what a command that uses a checkpoint says for itself


def env_factories(config: DictConfig, policies: Iterable[str] = ()) -> tuple[Callable[..., Any], Callable[[], Any]]:
    """`make_vector(count, workers=0)` and `make_env()` of the group `env`; both can be sent to other processes. Where one
    of the `policies` (by name) follows the env's expert, the env shows what that does."""
    import envs

    options = OmegaConf.to_container(config.env, resolve=True) | {"expert": EXPERT in policies}
    return partial(envs.make_vector, **options), partial(envs.make, **options)


def with_objective(config: DictConfig) -> DictConfig:
    """`config` with what its objective implies: for a goal image the env shows goal pictures, and the world model learns
    no rewards. An instruction on the command line is the objective, unless another one is there too."""
    from hydra.core.hydra_config import HydraConfig

    typed = [override.split("=")[0] for override in HydraConfig.get().overrides.task]
    if "objective" in config and "env.instruction" in typed and "objective" not in typed and config.env.instruction:
        config = OmegaConf.create(OmegaConf.to_container(config, resolve=False))
        config.objective = OmegaConf.load(Path(__file__).parents[1] / "configs" / "objective" / "instruction.yaml")
    if "objective" not in config:
        return config
    from policies.objectives import weights_of

    weights = weights_of(config.objective)
    if "goal_image" not in weights:
        return config
    config = OmegaConf.create(OmegaConf.to_container(config, resolve=False))
    config.env.goal_image = config.objective.image is None
    if "model" in config and "reward" not in weights:
        config.model.losses.reward = 0.0
    return config


def look_at(make_env: Callable[[], Any]) -> tuple[Interface, list[float]]:
    """What an env shows and takes, and the action that holds it still."""
    from worldmodel.interface import Interface

    env = make_env()
    try:
        return Interface(**env.interface), [float(number) for number in env.neutral_action]
    finally:
        env.close()


def with_checkpoint(config: DictConfig, overrides: list[str]) -> tuple[DictConfig, Agent | VLAAgent | None]:
    """The agent in `config.checkpoint` (None if that is null), and `config` with the settings of its run below the
    command line's own."""
    if config.checkpoint is None:
        return config, None
    agent = load_agent(config.checkpoint)
    return merge_with_saved(OmegaConf.create(agent.config), config, overrides, OWN), agent


def load_agent(checkpoint: str | None) -> Agent | VLAAgent | None:
    """What a checkpoint holds, a world model and its behaviour or a vision-language-action policy; None for none."""
    if checkpoint is None:
        return None
    from policies.agent import Agent
    from policies.vla.agent import KIND, VLAAgent
    from worldmodel.checkpoint import find_checkpoint, read_meta

    kind = read_meta(find_checkpoint(checkpoint)).get("kind")
    return (VLAAgent if kind == KIND else Agent).load(checkpoint)


def chosen_policy() -> str:
    """The choice of the group `policy`, which `config.policy` has the options of."""
    from hydra.core.hydra_config import HydraConfig

    return HydraConfig.get().runtime.choices.policy


def make_policy(
    name: str, options: DictConfig, agent: Agent | None, interface: Interface, neutral_action: list[float], seed: int
) -> Policy:
    """A policy from its options, those of a file in configs/policy/. Where they leave `neutral_action` open, it is the
    env's.

    Raises:
        ValueError: it needs a checkpoint, or the checkpoint was trained in an env that shows or takes something else.
    """
    from hydra.utils import instantiate

    if agent is not None:
        _require_same(agent.interface, interface)
    if "neutral_action" in options and options.neutral_action is None:
        options = OmegaConf.merge(options, {"neutral_action": neutral_action})
    try:
        make = instantiate(options, _partial_=True, _convert_="all")
        return make(agent=agent, interface=interface, seed=seed)
    except ValueError as error:
        raise SettingsError(f"policy={name}: {error}") from error


def policy_options(name: str, config: DictConfig) -> DictConfig:
    """The options of configs/policy/<name>.yaml, its references resolved in `config`."""
    path = Path(__file__).parents[1] / "configs" / "policy" / f"{name}.yaml"
    if not path.is_file():
        raise SettingsError(f"there is no policy '{name}': configs/policy/ has no {name}.yaml")
    whole = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
    whole.policy = OmegaConf.load(path)
    OmegaConf.resolve(whole)
    return whole.policy


def evaluation_options(config: DictConfig) -> dict[str, Any]:
    """What the group `eval` means to `policies.evaluate.evaluate`."""
    options = {key: config.eval[key] for key in ("episodes", "seed", "envs", "confidence")}
    return options | {"max_steps": config.eval.get("max_steps")}


def _require_same(trained: Interface, here: Interface) -> None:
    fields = ("cameras", "state_dim", "action_dim", "discrete")
    wrong = [f"{field} {getattr(here, field)}, not {getattr(trained, field)}" for field in fields
             if getattr(here, field) != getattr(trained, field)]  # fmt: skip
    if wrong:
        raise ValueError(
            f"the checkpoint was trained in another env; this one has {'; '.join(wrong)}. Leave env.* as saved"
        )


def evaluate_trained(config: DictConfig, name: str, agent, folder: Path, command: list[str], progress) -> None:
    """Evaluate what a verb has just trained, acting as the policy `name`, beside the baselines; write `folder/eval.json` and
    show the table."""
    from policies.evaluate import evaluate, format_table
    from scripts.help import console
    from worldmodel.provenance import write_json

    make_vector, make_env = env_factories(config)
    interface, neutral_action = look_at(make_env)
    names = list(dict.fromkeys([name, *config.eval.baselines]))
    result = evaluate(
        {
            each: make_policy(each, policy_options(each, config), agent, interface, neutral_action, config.seed)
            for each in names
        },
        make_vector,
        **evaluation_options(config),
        context={
            "command": " ".join(command),
            "policy": name,
            "checkpoint": str(agent.path),
            "config": OmegaConf.to_container(config),
        },
        progress=progress,
    )
    path = write_json(folder / "eval.json", result)
    console().print(format_table(result, {"results": path, "checkpoint": agent.path}))


def caption_pool(config: dict, store, progress):
    """The pool of captioned pictures, of the size of the episodes' in `store`, where a policy is co-trained on them; else
    None."""
    if not config["captions_weight"]:
        return None
    from envs.captions.batches import CaptionPool

    size = next(iter(store.interface.cameras.values()), (64,))[0]
    with progress.phase("captions", config["captions_pictures"], "pictures") as bar:
        return CaptionPool(config["captions_pictures"], size, config["seed"], on_picture=lambda: bar.advance(1))


def launched(config, folder: Path) -> tuple:
    """Make the run folder of a resolved config with a group `fabric`: the config as plain data, a launched Fabric and bars."""
    from lightning_fabric import Fabric

    from scripts.help import console
    from worldmodel.precision import configure
    from worldmodel.progress import Progress

    plain = OmegaConf.to_container(config)
    options = dict(plain["fabric"])
    configure(options.pop("threads"))
    fabric = Fabric(**options)
    fabric.launch()
    if fabric.is_global_zero:
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(config, folder / "config.yaml")
    return plain, fabric, Progress(console(), quiet=not fabric.is_global_zero)
