"""Locked-image tuning: the text goes on learning, towards pictures and facts that stay as they are."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodel.precision import reduced_precision
from worldmodel.vision_language.contrastive import Pretraining, Updates
from worldmodel.vision_language.fact_encoder import apart

FACTS_WEIGHT = 64.0  # of a sentence's distance from the fact that it says, beside the pairs
_ENCODED = 256  # pictures encoded at once


class LockedTuning(Updates):
    """Updates of the text encoder alone (LiT, Zhai et al. 2022). Pictures are encoded once, so an update costs a small part
    of what it does in pretraining; and what it means is known better, because the fact encoder has learned it.

    Args:
        pretraining: done; its model is changed.
        updates: how many there will be, for the learning rate.
    """

    def __init__(self, pretraining: Pretraining, updates: int):
        self.pretraining, self.model = pretraining, pretraining.model
        self.facts = pretraining.teachers["facts"].requires_grad_(False)
        self.model.requires_grad_(False)
        self.model.text_model.requires_grad_(True)
        named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        super().__init__(named, pretraining.config, updates)

    @torch.no_grad()
    def encoded(self, pictures: np.ndarray) -> Tensor:
        """Unit vectors `[N, E]` of pictures, uint8 `[N, H, W, 3]`."""
        parts = []
        for first in range(0, len(pictures), _ENCODED):
            some = torch.from_numpy(pictures[first : first + _ENCODED])
            with reduced_precision(self.model.device):
                seen = self.model.vision_model(pixel_values=self.pretraining.preprocess(some)).pooler_output
            parts.append(F.normalize(seen.float()))
        return torch.cat(parts)

    def update(
        self,
        number: int,
        images: Tensor,
        sentences: list[str],
        true: np.ndarray,
        known: np.ndarray,
        rng: np.random.Generator,
        said: tuple,
    ) -> dict[str, float]:
        """One update; its losses, without their weights: of the `pairs`, and of the `facts`.

        Args:
            number: of the update, from 0.
            images: unit vectors `[B, E]`.
            sentences, true, known: as in `Pretraining.update`, of any multiple of B sentences.
            said: `Facts.said`, of the sentences.
        """
        texts = self.pretraining.texts(sentences, rng)
        losses = {
            "pairs": self.pretraining.pairs_loss(images, texts, true, known),
            "facts": apart(self.facts, texts, said),
        }
        self.step(number, losses["pairs"] + FACTS_WEIGHT * losses["facts"])
        return {name: float(loss.detach()) for name, loss in losses.items()}
