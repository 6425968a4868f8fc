"""What a training run begins from: nothing, or an agent that is adapted. `Run` and `ImitationRun` ask it alike."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from torch import nn

from policies.agent import Agent
from policies.vla.agent import VLAAgent
from worldmodel.adaptation import ADAPTER, Belongs, Merged, Method, Trained, attach, identity
from worldmodel.checkpoint import CheckpointError
from worldmodel.data import EpisodeStore


class Scratch:
    """Training from nothing: everything is trained, and saved as it is.

    Attributes:
        agent: what there is already; None: it is made.
        moves_latents: whether the encoder is trained, so that its latents have to be standardised anew.
    """

    agent: Agent | VLAAgent | None = None
    moves_latents = True

    def free(self, learner: nn.Module) -> None:
        """Have those parameters of a copy of the model require a gradient that are trained."""
        learner.requires_grad_(True)

    def modules(self, model: nn.Module, learner: nn.Module) -> dict[str, nn.Module | Trained]:
        """What a checkpoint holds, and a resumed run reads: of the model that acts, and of the one that is trained."""
        return {"model": model, "learner": learner}

    def more(self, model: nn.Module) -> dict[str, Merged]:
        """What a checkpoint holds besides."""
        return {}

    def meta(self) -> dict:
        """Entries of a checkpoint's meta."""
        return {}

    def require_same(self, meta: dict, folder: Path) -> None:
        """Raise CheckpointError unless the checkpoint in `folder` began from the same."""


class Adaptation(Scratch):
    """An agent whose model is adapted to other episodes.

    Args:
        agent: a world model's, or a vision-language-action policy; it is changed.
        method: what of its model is trained.
        separate: checkpoints hold the adapter alone, and name the base; else the whole model as well.
        store: the episodes.

    Attributes:
        names: of the parameters that are trained.
        trained, parameters: their numbers, and how many the model has without an adapter; of a frozen vision-language
            encoder neither counts any.

    Raises:
        ValueError: the method has no adapter to separate, or is none for this model.
        StoreError: the episodes are of another env.
    """

    def __init__(self, agent: Agent | VLAAgent, method: Method, separate: bool, store: EpisodeStore):
        if separate and method.name == "full":
            raise ValueError("method=full has no adapter, every weight is trained: set adapter=merged")
        store.require_interface(agent.interface)
        self.agent, self.method, self.separate = agent, method, separate
        self.moves_latents = method.name == "full"
        self.parameters = sum(parameter.numel() for parameter in agent.model.parameters())
        own = identity(agent.model)
        self.names = attach(agent.model, method)
        self.trained = sum(p.numel() for p in agent.model.parameters() if p.requires_grad)
        self.belongs = Belongs.of(agent.model, method, agent.path, own)

    @property
    def file(self) -> str:
        """The file of a checkpoint that holds what was learned."""
        return f"{'model' if self.moves_latents else ADAPTER}.safetensors"

    def free(self, learner: nn.Module) -> None:
        for name, parameter in learner.named_parameters():
            parameter.requires_grad_(name in self.names)
        losses = getattr(learner.config, "losses", None)
        if losses is not None and not self.moves_latents:  # the decoder's loss would train nothing
            learner.config = replace(learner.config, losses=replace(losses, decoder=0.0, reconstruction=0.0))

    def modules(self, model: nn.Module, learner: nn.Module) -> dict[str, nn.Module | Trained]:
        if self.moves_latents:
            return super().modules(model, learner)
        metadata = {ADAPTER: json.dumps(self.belongs.to_dict())}
        return {ADAPTER: Trained(model, self.names, metadata), "learner": Trained(learner)}

    def more(self, model: nn.Module) -> dict[str, Merged]:
        return {} if self.separate or self.moves_latents else {"model": Merged(model)}

    def meta(self) -> dict:
        return {ADAPTER: self.belongs.to_dict()}

    def require_same(self, meta: dict, folder: Path) -> None:
        there = Belongs.from_dict(meta[ADAPTER])
        if (there.method, there.identity) != (self.method, self.belongs.identity):
            raise CheckpointError(
                f"{folder} was adapted from {there.base} by {there.method}, and this is {self.belongs.base} by "
                f"{self.method}: go on with its own checkpoint and settings, or begin another run"
            )
