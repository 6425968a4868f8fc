"""Sentences, as objectives for planning."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from policies.planners.objective import SentenceObjective
from policies.policy import Observation

if TYPE_CHECKING:
    from policies.agent import Agent


class Sentences:
    """What is asked of an agent, as objectives.

    Args:
        agent: whose imagined semantic tokens are compared.
        text: the sentence of every row; None takes each row's from its observations.

    Raises:
        ValueError: the model has no semantic tokens, or its encoder reads no text.
    """

    def __init__(self, agent: Agent, text: str | None):
        self.agent, self.text = agent, text
        self._known: dict[str, torch.Tensor] = {}
        if agent.model.semantics is None:
            raise ValueError(
                "objective=instruction needs a world model with semantic tokens; this one was trained with "
                "vision_language=off: train with vision_language=embedded"
            )

    def objective(self, observation: Observation) -> SentenceObjective:
        """To make true what the observations' `instruction` (or the text) says."""
        rows = len(next(iter(observation.values())))
        said = [self.text] * rows if self.text is not None else observation.get("instruction")
        if said is None:
            raise ValueError(
                "objective=instruction finds no instruction in the observations: give env.instruction=<sentence>"
            )
        semantics, device = self.agent.model.semantics, self.agent.model.device
        new = sorted({str(sentence) for sentence in said} - self._known.keys())
        self._known.update(zip(new, semantics.encoder(device).encode_text(new), strict=True))
        return SentenceObjective(
            torch.stack([self._known[str(sentence)] for sentence in said]),
            self.agent.model.read_semantic,
            semantics.whole_pictures,
        )
