"""A vision-language encoder that knows nothing, small enough to be made in a test."""

from __future__ import annotations

from pathlib import Path

import torch

from worldmodel.vision_language.contrastive import DualEncoderConfig, make_model, make_tokenizer, save

SENTENCES = ("the pole stands upright", "the pole hangs down", "push the red cube to the green zone")


def make_tiny_encoder(folder: Path, seed: int = 0, size: int = 32) -> Path:
    """Write one to `folder`, as any that was trained."""
    torch.manual_seed(seed)
    config = DualEncoderConfig(width=16, layers=1, heads=2, patch=16, text_layers=1)
    tokenizer = make_tokenizer(SENTENCES)
    save(folder, make_model(config, len(tokenizer), size), tokenizer, size)
    return folder
