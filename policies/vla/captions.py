"""Co-training on captioned pictures, so that tuning on actions does not forget language (the recipe of RT-2, Brohan et
al. 2023, section 3.2, with a contrastive loss in place of a language model's)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from policies.vla.model import VLA
from worldmodel.interface import SEMANTIC
from worldmodel.vision_language.contrastive import sigmoid_loss


@dataclass(frozen=True)
class CaptionBatch:
    """Pictures and sentences of which it is known what is true of what.

    Attributes:
        pictures: uint8 `[B, H, W, 3]`.
        sentences: S of them.
        true: float32 `[B, S]`, 1 where a sentence is true of a picture, between 0 and 1 where it nearly is.
        known: bool `[B, S]`, whether that is known.
    """

    pictures: np.ndarray
    sentences: Sequence[str]
    true: np.ndarray
    known: np.ndarray


class CaptionHead(nn.Module):
    """A picture as the policy sees it, in the space of sentences: the mean of the trunk's vision tokens, projected. Where
    the pretrained encoder itself is tuned, its own embedding of the picture, and nothing is learned here."""

    def __init__(self, model: VLA):
        super().__init__()
        self.project = None
        if model.adapters is None or model.adapters.logit_scale is None:
            self.project = nn.Linear(model.config.width, model.instructions.dim)
            self.scale = nn.Parameter(torch.tensor(math.log(10.0)))  # SigLIP's beginnings (Zhai et al. 2023)
            self.bias = nn.Parameter(torch.tensor(-4.0))

    def loss(self, model: VLA, batch: CaptionBatch, semantic: Tensor | None = None) -> Tensor:
        """SigLIP's pairwise sigmoid loss (Zhai et al. 2023, algorithm 1), a scalar; sentences are embedded by the frozen
        text encoder.

        Args:
            semantic: the frozen encoder's tokens of the pictures `[B, K, E]`, where they are known.
        """
        device = model.device
        texts = model.instructions.read(batch.sentences, device).whole
        picture = torch.from_numpy(batch.pictures).to(device)
        if self.project is None:
            images = model.adapters(picture)[:, 0]
            scale, bias = model.adapters.logit_scale_and_bias(images)
        else:
            observation = {camera: picture for camera in model.interface.cameras}
            if semantic is not None:
                observation[SEMANTIC] = semantic
            nothing = model.instructions.nothing(len(picture), device)
            seen = model.tokens(observation, nothing)[:, : model.vision_tokens].mean(1)
            images, scale, bias = F.normalize(self.project(seen), dim=-1), self.scale.exp(), self.bias
        true, known = (torch.from_numpy(part).to(device, torch.float32) for part in (batch.true, batch.known))
        return sigmoid_loss(images, texts, true, known, scale, bias) / len(batch.sentences)
