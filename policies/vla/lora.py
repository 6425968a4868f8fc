"""Low-rank adapters in a pretrained encoder's vision transformer (LoRA, Hu et al. 2022)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from worldmodel.vision_language.encoder import EncoderError, VisionLanguageEncoder

TEXT = ("text_model", "text_projection", "transformer.resblocks", "token_embedding")  # what belongs to sentences


class LowRank(nn.Module):
    """A frozen linear layer with a trained correction of low rank, which is zero at first."""

    def __init__(self, layer: nn.Linear, rank: int):
        super().__init__()
        self.layer = layer
        self.down = nn.Parameter(torch.randn(rank, layer.in_features) / rank)
        self.up = nn.Parameter(torch.zeros(layer.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + (x @ self.down.T.to(x.dtype)) @ self.up.T.to(x.dtype)


class _Weights(nn.Module):
    """The trained numbers of one adapter, without the layer that they correct."""

    def __init__(self, adapter: LowRank):
        super().__init__()
        self.down, self.up = adapter.down, adapter.up


class TunedEncoder(nn.Module):
    """A copy of an encoder with adapters in every linear layer of its vision transformer. Its own weights are frozen and
    no part of a checkpoint: the adapters are, and they fit that encoder alone.

    Args:
        encoder: stays as it is.
        rank: of the corrections.

    Raises:
        EncoderError: it has no linear layers to adapt.
    """

    def __init__(self, encoder: VisionLanguageEncoder, rank: int):
        super().__init__()
        tuned = copy.deepcopy(encoder)
        adapters = {}
        for name, module in list(tuned.backbone.named_modules()):
            for child, layer in list(module.named_children()):
                path = f"{name}.{child}"
                if type(layer) is nn.Linear and not any(part in path for part in TEXT):
                    adapters[path.replace(".", "-")] = adapted = LowRank(layer, rank)
                    setattr(module, child, adapted)
        if not adapters:
            raise EncoderError(f"{encoder.name} has no linear layers in its vision transformer: set vla.lora_rank=0")
        self.adapters = nn.ModuleDict({key: _Weights(adapter) for key, adapter in adapters.items()})
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
