"""A trained vision-language-action policy: what a checkpoint holds for acting."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from policies.agent import to_tensors
from policies.policy import Observation
from policies.vla.config import VLAConfig
from policies.vla.model import VLA
from policies.vla.statistics import Statistics
from worldmodel.adaptation import load_model
from worldmodel.checkpoint import CheckpointError, find_checkpoint, read_meta
from worldmodel.interface import Interface
from worldmodel.precision import configure
from worldmodel.vision_language.semantics import Semantics

KIND = "vla"  # what a checkpoint's meta calls itself


@dataclass
class VLAAgent:
    """A vision-language-action model and what it was made for.

    Attributes:
        model: the weights.
        statistics: by which it normalises.
        interface: of the env that its demonstrations come from.
        config: the run's resolved config.
        path: the checkpoint, None while training.
    """

    model: VLA
    statistics: Statistics
    interface: Interface
    config: dict
    path: Path | None = None

    @classmethod
    def new(cls, interface: Interface, config: dict, statistics: Statistics, described: dict | None = None) -> VLAAgent:
        """An untrained one from a run's config (groups `vla`, `vision_language`).

        Args:
            described: the vision-language encoder of a checkpoint; another one is then an error.

        Raises:
            EncoderError: the encoder can't be loaded, or reads no text.
        """
        semantics = None
        if config["vision_language"]["name"] and interface.cameras:
            semantics = Semantics(config["vision_language"], list(interface.cameras), described)
        model = VLA(interface, VLAConfig.from_dict(config["vla"]), semantics, statistics)
        return cls(model, statistics, interface, config)

    @classmethod
    def load(cls, checkpoint: str | Path, device: str | torch.device = "cpu") -> VLAAgent:
        """From a checkpoint, a run folder or a link.

        Raises:
            CheckpointError: there is none, it does not fit, or is of something else.
            StatisticsError: its normalisation statistics are missing or don't fit.
        """
        configure()
        path = find_checkpoint(checkpoint)
        meta = read_meta(path)
        if meta.get("kind") != KIND:
            raise CheckpointError(f"{path} holds no vision-language-action policy; worldmodel imitate makes one")
        interface = Interface(**meta["interface"])
        statistics = Statistics.from_dict(meta.get("statistics"), interface, where=str(path))
        agent = cls.new(interface, meta["config"], statistics, meta["semantics"])
        agent.model = load_model(path, meta, agent.model, lambda base: cls.load(base).model)
        agent.model.to(device).eval()
        agent.path = path
        return agent

    def policy(self, seed: int = 0, **options):
        """The policy that acts with it: `policies.vla.execution.ChunkPolicy` with its options."""
        from policies.vla.execution import ChunkPolicy

        return ChunkPolicy(agent=self, seed=seed, **options)

    def predict(
        self, observation: Observation, sentences: list[str], generator: torch.Generator | None = None
    ) -> np.ndarray:
        """Chunks float32 `[B, H, A]` in [-1, 1] for an observation of B rows.

        Raises:
            ValueError: an input is missing or of another shape; the message names it.
        """
        return self.propose(observation, sentences, 1, generator)[:, 0].cpu().numpy()

    @torch.no_grad()
    def propose(
        self,
        observation: Observation,
        sentences: list[str],
        count: int,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """K different chunks for each row, float32 `[B, K, H, A]` in [-1, 1]: see `policies.vla.heads.ActionHead.propose`.

        Raises:
            ValueError: an input is missing or of another shape; the message names it.
        """
        training = self.model.training
        self.model.eval()
        inputs: dict[str, Tensor] = to_tensors(observation, self.interface, self.model.device)
        said = self.model.instructions.read(sentences, self.model.device)
        chunks = self.model.propose(inputs, said, count, generator, temperature)
        self.model.train(training)
        return chunks.float()
