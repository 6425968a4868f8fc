"""A pretrained encoder whose vision transformer is tuned by low-rank adapters (LoRA, Hu et al. 2022)."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from worldmodel.adaptation import add_low_rank
from worldmodel.vision_language.encoder import EncoderError, VisionLanguageEncoder

TEXT = ("text_model", "text_projection", "transformer.resblocks", "token_embedding")  # what belongs to sentences


class TunedEncoder(nn.Module):
    """A copy of an encoder with peft's adapters around every linear layer of its vision transformer. Its own weights
    are frozen and no part of a checkpoint: the adapters are, and they fit that encoder alone.

    Args:
        encoder: stays as it is.
        rank: of the adapters.

    Raises:
        EncoderError: it has no linear layers to adapt.
    """

    def __init__(self, encoder: VisionLanguageEncoder, rank: int):
        super().__init__()
        self.rank = rank
        tuned = copy.deepcopy(encoder)
        names = [
            name
            for name, layer in tuned.backbone.named_modules()
            if type(layer) is nn.Linear and not any(part in f".{name}" for part in TEXT)
        ]
        if not names:
            raise EncoderError(
                f"{encoder.name} has no linear layers in its vision transformer: leave it frozen, rank 0"
            )
        layers = add_low_rank(tuned.backbone, names, rank, alpha=rank)
        self.adapters = nn.ModuleDict(
            {
                name.replace(".", "-"): nn.ModuleDict({"lora_A": layer.lora_A, "lora_B": layer.lora_B})
                for name, layer in layers.items()
            }
        )
        self.logit_scale, self.logit_bias = encoder.logit_scale, encoder.logit_bias
        self._encoder = [tuned]  # in a list: its frozen weights are not this module's

    def _apply(self, function, recurse=True):
        self._encoder[0]._apply(function)
        return super()._apply(function, recurse)

    def forward(self, images: Tensor) -> Tensor:
        """Pictures uint8 `[F, H, W, 3]` to unit vectors `[F, M, E]`, with gradients to the adapters."""
        return self._encoder[0].differentiable_tokens(images)

    def logit_scale_and_bias(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Of the encoder's own logits, constants."""
        return like.new_tensor(self.logit_scale), like.new_tensor(self.logit_bias or 0.0)
