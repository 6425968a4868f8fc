"""Learned prefix tokens of a transformer's block: what it attends to besides the frames."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Prefix(nn.Module):
    """Learned keys and values of P tokens that every query of a block sees, at no position (prefix-tuning, Li & Liang
    2021), in a softmax of their own whose result a gate adds to the attention's, `tanh(0) = 0` at first (LLaMA-Adapter,
    Zhang et al. 2023, section 3): the model begins as it was, no frame of the window is displaced, and neither caches
    nor kernels know of them.

    It is not one of `peft`'s: its prefix tuning hands `past_key_values` to a Hugging Face model, its `AdaptionPrompt`
    (this very method) rewrites the attention of transformers' LLaMA, Mistral and GPT-2, and refuses every other model.

    Args:
        heads: of the queries; each has keys and values of its own.
        tokens: P.
        dim: d, numbers per head.
    """

    def __init__(self, heads: int, tokens: int, dim: int):
        super().__init__()
        self.keys = nn.Parameter(torch.randn(heads, tokens, dim))  # of the size that QK-norm gives the others
        self.values = nn.Parameter(torch.randn(heads, tokens, dim))
        self.gate = nn.Parameter(torch.zeros(heads, 1))

    def forward(self, query: Tensor) -> Tensor:
        """What the prefix adds to the attention of normalised, scaled queries `[..., heads, d]`, of the same shape."""
        keys, values = self.keys.to(query.dtype), self.values.to(query.dtype)
        weights = torch.einsum("...hd,hpd->...hp", query, keys).softmax(-1)
        return self.gate.tanh().to(query.dtype) * torch.einsum("...hp,hpd->...hd", weights, values)
