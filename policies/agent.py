"""A trained agent: world model and behaviour, and the policies that act with them."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from policies.actor_critic import ActorCritic, ActorCriticConfig
from policies.bursts import Bursts
from policies.goal_value import GoalValue, GoalValueConfig
from policies.judge import Judge
from policies.objectives import weights_of
from policies.planners import build as build_planner
from policies.policy import Observation
from policies.video import View
from policies.view import model_view
from worldmodel.adaptation import load_model
from worldmodel.checkpoint import find_checkpoint, load_module, read_meta
from worldmodel.compilation import Compiled
from worldmodel.config import ModelConfig
from worldmodel.imagination import Trajectory, imagine
from worldmodel.interface import Interface
from worldmodel.model import WorldModel
from worldmodel.precision import configure
from worldmodel.vision_language.semantics import Semantics


@dataclass
class Agent:
    """What a checkpoint holds for acting.

    Attributes:
        model: the world model.
        behavior: actor and critic.
        goal_value: the learned distance between latents; None where the run was not for goal images.
        interface: of the env it was trained in.
        config: the run's resolved config.
        path: the checkpoint, None while training.
    """

    model: WorldModel
    behavior: ActorCritic
    interface: Interface
    config: dict
    goal_value: GoalValue | None = None
    path: Path | None = None

    @classmethod
    def new(cls, interface: Interface, config: dict, described: dict | None = None) -> Agent:
        """An untrained agent from a run's config (groups `model`, `behavior`, `vision_language`).

        Args:
            described: the vision-language encoder of a checkpoint, which is then loaded when it is needed.

        Raises:
            EncoderError: it can't be loaded.
        """
        semantics = None
        if config.get("vision_language", {}).get("name") and interface.cameras:
            semantics = Semantics(config["vision_language"], list(interface.cameras), described)
        model = WorldModel(interface, ModelConfig.from_dict(config["model"]), semantics)
        behavior = ActorCritic(
            model.feature_dim, interface.action_dim, interface.discrete, ActorCriticConfig(**config["behavior"])
        )
        goal_value = None
        if config.get("objective", {}).get("name") == "goal_image":
            size = model.config.latent_tokens * model.config.latent_dim
            goal_value = GoalValue(size, GoalValueConfig(**config["goal_value"]))
        return cls(model, behavior, interface, config, goal_value)

    @classmethod
    def load(cls, checkpoint: str | Path, device: str | torch.device = "cpu") -> Agent:
        """From a checkpoint, a run folder or a link.

        Raises:
            CheckpointError: there is none, or it does not fit.
        """
        configure()
        path = find_checkpoint(checkpoint)
        meta = read_meta(path)
        agent = cls.new(Interface(**meta["interface"]), meta["config"], meta.get("semantics"))
        agent.model = load_model(path, meta, agent.model, lambda base: cls.load(base).model)
        load_module(path, "behavior", agent.behavior)
        agent.model.to(device).eval()
        agent.behavior.to(device).eval()
        if agent.goal_value is not None:
            load_module(path, "goal_value", agent.goal_value)
            agent.goal_value.to(device).eval()
        agent.path = path
        return agent

    def policy(self, name: str = "actor", seed: int = 0, **options) -> ActorPolicy | PlannerPolicy:
        """`actor`, or `planner` with the options of `PlannerPolicy`."""
        kinds = {"actor": ActorPolicy, "planner": PlannerPolicy}
        if name not in kinds:
            raise ValueError(f"policy {name!r} is not one of {', '.join(kinds)}")
        return kinds[name](agent=self, interface=self.interface, seed=seed, **options)

    def view(self, episode: dict, open_loop_step: np.ndarray) -> View:
        """What the model sees and dreams along an episode, for a video: see `policies.view.model_view`."""
        return model_view(self.model, episode, open_loop_step)


def to_tensors(observation: Observation, interface: Interface, device: torch.device) -> dict[str, Tensor]:
    """The inputs that the model was made for, on its device.

    Raises:
        ValueError: one is missing or of another shape; the message names it.
    """
    tensors = {}
    for key in interface.observation_keys():
        expected = interface.cameras.get(key, (interface.state_dim,))
        if key not in observation or tuple(observation[key].shape[1:]) != expected:
            got = tuple(observation[key].shape[1:]) if key in observation else f"only {sorted(observation)}"
            raise ValueError(f"the policy needs observation {key!r} of shape {expected} per row, and got {got}")
        tensors[key] = torch.as_tensor(observation[key]).to(device)
    return tensors


class BeliefPolicy(abc.ABC):
    """Keeps the belief of every row up to date; subclasses choose the action.

    Args:
        agent: whose model it believes.
        interface: of the env; the agent's own when None.
        seed: of all that it draws.
        noise: standard deviation of Gaussian noise added to continuous actions.
        bursts: probability, at every step, that random actions take over for a few: see `Bursts`.
    """

    def __init__(
        self,
        *,
        agent: Agent,
        interface: Interface | None = None,
        seed: int = 0,
        noise: float = 0.0,
        bursts: float = 0.0,
    ):
        if agent is None:
            raise ValueError("this policy acts with a trained model: give checkpoint=<folder>")
        if not hasattr(agent, "behavior"):
            raise ValueError("this checkpoint has no world model: it is one of worldmodel imitate, for policy=vla")
        self.agent = agent
        self.interface = interface or agent.interface
        self.generator = torch.Generator(agent.model.device).manual_seed(seed)
        self.noise, self.burst_rate = noise, bursts
        self.memory = self.previous = self.bursts = None

    @torch.no_grad()
    def reset(self, observation: Observation, mask: np.ndarray | None = None) -> None:
        """Forget the past of the rows in `mask` (all when None)."""
        rows = len(next(iter(observation.values())))
        model = self.agent.model
        if self.memory is None or mask is None or bool(np.all(mask)) or len(self.previous) != rows:
            self.memory = model.start(rows)
            self.previous = torch.zeros(rows, self.interface.action_dim, device=model.device)
            if self.burst_rate:
                self.bursts = Bursts(self.burst_rate, *self.previous.shape, self.interface.discrete, self.generator)
        else:
            chosen = torch.as_tensor(mask, device=model.device)
            self.memory = self.memory.forget(chosen)
            self.previous = self.previous.masked_fill(chosen[:, None], 0.0)
            if self.bursts:
                self.bursts.end(chosen)

    @torch.no_grad()
    def act(self, observation: Observation) -> np.ndarray:
        """Actions `[B, A]` after taking the frame into the belief."""
        self.see(observation)
        model = self.agent.model
        training = model.training
        model.eval()
        action = self.choose()
        model.train(training)
        if self.interface.discrete:
            action = torch.nn.functional.one_hot(action.argmax(-1), action.shape[-1]).to(action.dtype)
        elif self.noise:
            action = action + self.noise * torch.randn(action.shape, generator=self.generator, device=action.device)
        if self.bursts:
            action = self.bursts(action)
        self.previous = action.clamp(-1, 1)
        return self.previous.cpu().numpy()

    @torch.no_grad()
    def see(self, observation: Observation) -> None:
        """Take a frame of every row into the belief, after the actions `previous` `[B, A]`."""
        model = self.agent.model
        inputs = to_tensors(observation, self.interface, model.device)
        if self.memory is None:
            self.reset(observation)
        training = model.training
        model.eval()
        self.memory = model.observe(inputs, self.previous, self.memory)
        model.train(training)

    @abc.abstractmethod
    def choose(self) -> Tensor:
        """Actions `[B, A]` from `self.memory`."""


class ActorPolicy(BeliefPolicy):
    """The actor's mode, or a draw from it.

    Args:
        sample: draw from the actor's distribution, as when collecting.
        common: see `BeliefPolicy`.
    """

    def __init__(self, *, sample: bool = False, **common):
        super().__init__(**common)
        self.sample = sample

    @torch.no_grad()
    def imagine(self, horizon: int) -> Trajectory:
        """What would come if the actor's mode acted on, from the present belief of every row."""
        model = self.agent.model
        return imagine(model, self.memory, partial(self.agent.behavior.act, model), horizon)

    def choose(self) -> Tensor:
        belief, latent = self.memory.belief, self.memory.latent
        shape = len(belief), self.interface.action_dim
        noise = torch.randn(shape, generator=self.generator, device=belief.device) if self.sample else None
        return self.agent.behavior.act(self.agent.model, belief, latent, noise)


class PlannerPolicy(BeliefPolicy):
    """Plans through imagined trajectories at every step. For reward, candidates are seeded by the actor and the tail is
    bootstrapped by the critic; for a goal image, plans are judged by how far they leave the latents from the goal's; for a
    sentence, by how well their semantic tokens fit it.

    Args:
        planner: the options of a planner, with its `name`: the config group `planner`; the checkpoint's when None. It
            plans in a copy of the model as it is now.
        objective: the config group `objective`; the checkpoint's when None. The picture of a `goal_image` is in the
            observation (`goal`, `goal.<camera>`), or a file.
        common: see `BeliefPolicy`.

    Raises:
        ValueError: an objective of another name, or one that needs pictures where the model sees none.
    """

    def __init__(self, *, planner: dict | None = None, objective: dict | None = None, **common):
        super().__init__(**common)
        agent = self.agent
        objective = objective or agent.config.get("objective") or {"name": "reward"}
        options = dict(planner or agent.config["planner"])
        self.knows_reward = "reward" in weights_of(objective)
        if options.get("horizon") is None:  # longer plans trust the model where the critic knows better
            options["horizon"] = 5 if self.knows_reward else 24
        self.planner = build_planner(
            options.pop("name"),
            self.interface.action_dim,
            self.interface.discrete,
            **options,
            device=agent.model.device,
        )
        self.judge = Judge(agent, objective, self.planner.compile)
        self.draw = partial(agent.behavior.act, self.judge.model)
        if self.planner.compile:
            self.draw = Compiled(self.draw, lambda *inputs: inputs)
        self.objective = None

    def reset(self, observation: Observation, mask: np.ndarray | None = None) -> None:
        super().reset(observation, mask)
        self.planner.reset(None if mask is None or np.all(mask) else torch.as_tensor(mask))
        self.objective = self.judge.objective(observation)

    def propose(self) -> Tensor | None:
        """Plans of the actor, the first its mode: `[B, P, H, A]`; none towards a goal image or a sentence, of which it
        knows nothing."""
        if not self.planner.proposals or not self.knows_reward:
            return None
        rows, count = self.memory.latent.shape[0], self.planner.proposals
        shape = (self.planner.horizon, rows, count, self.interface.action_dim)
        noise = torch.randn(shape, generator=self.generator, device=self.memory.latent.device)
        noise[:, :, 0] = 0.0
        steps = iter(noise.flatten(1, 2))

        def policy(belief: Tensor, latent: Tensor) -> Tensor:
            return self.draw(belief, latent, next(steps))

        judge = self.judge
        dream = imagine(judge.model, self.memory, policy, self.planner.horizon, count, "before", judge.step)
        return dream.actions.unflatten(0, (rows, count))

    def score(self, actions: Tensor) -> Tensor:
        """The objective of candidate plans `[B, C, H, A]`: `[B, C]`."""
        return self.judge.score(self.memory, self.objective, actions)

    def choose(self) -> Tensor:
        rows = self.memory.latent.shape[0]
        plan = self.planner.plan(self.score, rows, proposals=self.propose(), generator=self.generator)
        return plan.actions[:, 0]
