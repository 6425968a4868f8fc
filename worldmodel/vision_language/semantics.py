"""The frozen encoder of a world model: what it is, and itself once somebody needs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from worldmodel.vision_language.encoder import VisionLanguageEncoder


class Semantics:
    """What a model knows of its encoder without loading it: a policy whose features come from a cache never does.

    Copies of a model share it, and it is no part of a checkpoint's weights.

    Args:
        options: the config group `vision_language`.
        cameras: the observation's pictures, each of which gets M tokens: K = cameras x M.
        described: the encoder's `describe()`, of the checkpoint; None loads the encoder to ask it.

    Raises:
        EncoderError: it can't be loaded, now or when it is first needed, or is another than `described`.
    """

    def __init__(self, options: Mapping, cameras: Sequence[str], described: dict | None = None):
        self.options, self.cameras = dict(options), list(cameras)
        self._encoder: VisionLanguageEncoder | None = None
        self.described = described or self.encoder().describe()

    def __deepcopy__(self, memo) -> Semantics:
        return self

    @property
    def shape(self) -> tuple[int, int]:
        """`(K, E)`: tokens of a frame and numbers of each."""
        return len(self.cameras) * self.described["tokens"], self.described["dim"]

    @property
    def whole_pictures(self) -> list[int]:
        """Which of the K tokens are of whole pictures, and so compare with sentences: each camera's first."""
        return list(range(0, self.shape[0], self.described["tokens"]))

    def encoder(self, device: torch.device | None = None) -> VisionLanguageEncoder:
        """The encoder, on `device` where one is given."""
        if self._encoder is None:
            from worldmodel.vision_language.loading import load

            options = {key: self.options[key] for key in ("patch_tokens", "batch_size") if key in self.options}
            encoder = load(self.options["name"], **options)
            if hasattr(self, "described"):
                encoder.require_same(self.described)
            self._encoder = encoder
        return self._encoder if device is None else self._encoder.to(device)

    def tokens(self, observation: Mapping[str, Tensor], device: torch.device) -> Tensor:
        """The semantic tokens of frames whose pictures are uint8 `[F, H, W, 3]` each: `[F, K, E]`."""
        encoder = self.encoder(device)
        return torch.cat([encoder.encode_images(observation[camera]) for camera in self.cameras], 1)
