"""One interface for every frozen vision-language encoder: pictures and sentences to vectors that compare."""

from __future__ import annotations

import abc
import hashlib
import json
import logging
import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.vision_language.preprocessing import Preprocessing

log = logging.getLogger(__name__)

PROBES = ("a red cube", "the blue ball is left of 2 green zones", "Push!")  # tell one tokenizer from another
WITH_TEXT = "CLIP, SigLIP, SigLIP 2 and open_clip encoders have text (vision_language=embedded, clip or siglip2)"


class EncoderError(ValueError):
    """An encoder can't be loaded or used so; the message says what mends it."""


class Backbone(nn.Module, abc.ABC):
    """A library's model behind the methods that differ between families; `VisionLanguageEncoder` does the rest.

    Attributes:
        family: such as `siglip`; begins the identity.
        architecture: plain data that, with the weights, decides what the model computes.
        has_text, has_words, logit_scale, logit_bias: see `VisionLanguageEncoder`.
    """

    family: str
    architecture: dict
    has_text = False
    has_words = False
    logit_scale: float | None = None
    logit_bias: float | None = None

    @abc.abstractmethod
    def image_features(self, pixels: Tensor, patches: bool) -> tuple[Tensor, Tensor | None]:
        """Embeddings `[F, E]` and, where asked for, patch features `[F, P, E]`, of `pixels` `[F, 3, h, w]`."""

    def tokenize(self, sentences: list[str]) -> dict[str, Tensor]:
        """Inputs of `text_features`, int64 `[S, L]` each."""
        raise NotImplementedError

    def text_features(self, batch: dict[str, Tensor]) -> Tensor:
        """Embeddings `[S, E]`, of any length."""
        raise NotImplementedError

    def word_features(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The text encoder's last layer `[S, L, F]`, and which places hold a word, bool `[S, L]`."""
        raise NotImplementedError

    def warn_of_cut(self, longest: int, limit: int) -> None:
        """Say once that a sentence has more tokens than are read."""
        if longest > limit and not self.__dict__.get("_told"):
            log.warning("only the first %d tokens of a sentence are read, and one has %d", limit, longest)
            self._told = True


class VisionLanguageEncoder(nn.Module):
    """A frozen pretrained encoder; made by `load`. Always in eval mode, without gradients, whatever module holds it.

    A picture becomes M = `tokens` unit vectors: first the embedding of the whole picture, in the space of the
    sentences' embeddings where there is text; then, row by row, the averages of the patches' features over a square
    grid of `patch_tokens` cells. CLIP's patch features are projected into the same space (Zhou et al. 2022, "Extract
    free dense labels from CLIP"), SigLIP's and DINO's have its width as they are.

    A picture and a sentence fit with the logit `logit_scale * image @ text + logit_bias`: in SigLIP a sigmoid's (Zhai
    et al. 2023, algorithm 1), in CLIP a softmax's over the alternatives (Radford et al. 2021, figure 3).

    Attributes:
        name: what was loaded: `embedded`, a hub id, a folder, `open_clip:...`.
        identity: family and a SHA-256 of weights, architecture, preprocessing, patch tokens and tokenizer; equal for
            equal results, whatever the machine, folder, device or precision.
        dim: E, numbers per vector.
        patch_tokens: how many of the tokens belong to a part of the picture.
        has_text: whether `encode_text` works.
        has_words: whether `encode_words` does.
        logit_scale, logit_bias: floats; None where the checkpoint has none.
        preprocessing: what is done to pictures first.
        batch_size: pictures or sentences at once.
    """

    def __init__(
        self,
        name: str,
        backbone: Backbone,
        preprocessing: Preprocessing,
        patch_tokens: int,
        batch_size: int,
    ):
        super().__init__()
        if patch_tokens < 0 or math.isqrt(patch_tokens) ** 2 != patch_tokens:
            raise EncoderError(
                f"vision_language.patch_tokens={patch_tokens} must be a square number: 0, 1, 4, 9, 16, ..."
            )
        if batch_size < 1:
            raise EncoderError(f"vision_language.batch_size={batch_size} must be at least 1")
        self.name = name
        self.backbone = backbone.requires_grad_(False).eval()
        self.preprocessing = preprocessing
        self.patch_tokens = patch_tokens
        self.batch_size = batch_size
        self.has_text = backbone.has_text
        self.has_words = backbone.has_words
        self.logit_scale = backbone.logit_scale
        self.logit_bias = backbone.logit_bias
        for key, value in backbone.named_parameters():
            if not torch.isfinite(value).all():
                raise EncoderError(f"the weights of {name} are damaged: {key} has a NaN or infinity. Fetch them again")
        self.dim = self._measure()
        self.identity = f"{backbone.family}-{self._hash()}"

    @property
    def tokens(self) -> int:
        """M, vectors per picture."""
        return 1 + self.patch_tokens

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.backbone.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights and of the arithmetic; results are float32."""
        return next(self.backbone.parameters()).dtype

    def train(self, mode: bool = True) -> VisionLanguageEncoder:
        """Stay in eval mode: a frozen encoder has no other."""
        return super().train(False)

    @torch.no_grad()
    def encode_images(self, images: Tensor | np.ndarray) -> Tensor:
        """uint8 `[F, H, W, 3]`, 0 to 255, to float32 `[F, M, E]`: unit vectors on the encoder's device.

        Raises EncoderError for another shape or type."""
        if tuple(images.shape[-1:]) != (3,) or len(images.shape) != 4 or str(images.dtype).split(".")[-1] != "uint8":
            raise EncoderError(
                f"encode_images takes pictures uint8 [F, H, W, 3], and got {images.dtype} {tuple(images.shape)}"
            )
        parts = [torch.empty(0, self.tokens, self.dim, device=self.device)]
        for start in range(0, len(images), self.batch_size):
            part = images[start : start + self.batch_size]
            part = torch.from_numpy(part.copy()) if isinstance(part, np.ndarray) else part  # memory maps are read-only
            parts.append(self._tokens(self.preprocess(part.to(self.device))))
        return torch.cat(parts)

    def differentiable_tokens(self, images: Tensor) -> Tensor:
        """As `encode_images`, at once and with gradients to whatever was added to the weights and is trained."""
        return self._tokens(self.preprocess(images.to(self.device)))

    @torch.no_grad()
    def encode_text(self, sentences: Sequence[str]) -> Tensor:
        """S sentences to float32 `[S, E]`: unit vectors on the encoder's device.

        What is longer than the encoder reads is cut off, with a warning. Raises EncoderError without text."""
        if not self.has_text:
            raise EncoderError(f"{self.name} sees pictures only and can't read {list(sentences)[:1]}: {WITH_TEXT}")
        if isinstance(sentences, str) or not all(isinstance(sentence, str) for sentence in sentences):
            raise EncoderError(f"encode_text takes a list of sentences, and got {sentences!r}")
        parts = [torch.empty(0, self.dim, device=self.device)]
        for start in range(0, len(sentences), self.batch_size):
            batch = {
                key: torch.as_tensor(value).to(self.device)
                for key, value in self.backbone.tokenize(list(sentences[start : start + self.batch_size])).items()
            }
            with self._plain_arithmetic():
                parts.append(F.normalize(self.backbone.text_features(batch).float(), dim=-1))
        return torch.cat(parts)

    @torch.no_grad()
    def encode_words(self, sentences: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The tokens of S sentences, each in its context: float32 `[S, L, F]`, not normalised, and which of the L places
        hold one, bool `[S, L]`.

        L is what the longest needs, or all that the encoder reads. Raises EncoderError where it gives whole sentences only."""
        if not self.has_words:
            raise EncoderError(f"{self.name} gives no features of single words: use encode_text")
        batch = {key: value.to(self.device) for key, value in self.backbone.tokenize(list(sentences)).items()}
        with self._plain_arithmetic():
            features, present = self.backbone.word_features(batch)
        return features.float(), present

    def preprocess(self, images: Tensor) -> Tensor:
        """uint8 `[F, H, W, 3]` to what the model takes, `[F, 3, h, w]` in its type."""
        return self.preprocessing(images).to(self.dtype)

    def describe(self) -> dict:
        """What travels with a world model that was trained on these features, as plain JSON types."""
        return {
            "name": self.name,
            "identity": self.identity,
            "dim": self.dim,
            "tokens": self.tokens,
            "patch_tokens": self.patch_tokens,
            "preprocessing": self.preprocessing.to_dict(),
            "precision": str(self.dtype).removeprefix("torch."),
        }

    def require_same(self, wanted: dict, owner: str = "the checkpoint") -> None:
        """Raise EncoderError unless `wanted`, the `describe()` of the encoder that `owner` was made with, fits.

        Name and precision may differ: the same weights may lie in another folder, and run in another arithmetic."""
        mine = self.describe()
        differing = [
            f"{key} {wanted.get(key)!r} there, {mine[key]!r} here"
            for key in mine
            if key not in ("name", "precision") and wanted.get(key) != mine[key]
        ]
        if differing:
            raise EncoderError(
                f"{owner} was made with the encoder {wanted.get('name')!r}, and {self.name!r} is loaded, which "
                f"differs: {'; '.join(differing)}. Load that one: vision_language.name={wanted.get('name')} "
                f"vision_language.patch_tokens={wanted.get('patch_tokens')}"
            )

    def _tokens(self, pixels: Tensor) -> Tensor:
        """`[F, 3, h, w]` to unit vectors `[F, M, E]`."""
        with self._plain_arithmetic():
            pooled, patches = self.backbone.image_features(pixels, self.patch_tokens > 0)
        result = pooled.float()[:, None]
        if self.patch_tokens:
            side, grid = math.isqrt(patches.shape[1]), math.isqrt(self.patch_tokens)
            if side * side != patches.shape[1] or grid > side:
                raise EncoderError(
                    f"{self.name} has {patches.shape[1]} patches, which don't fill a square grid of "
                    f"{self.patch_tokens} cells: choose fewer with vision_language.patch_tokens"
                )
            squares = patches.float().transpose(1, 2).unflatten(2, (side, side))
            cells = F.adaptive_avg_pool2d(squares, grid).flatten(2).transpose(1, 2)
            result = torch.cat([result, cells], 1)
        return F.normalize(result, dim=-1)

    def _measure(self) -> int:
        """E, read from one black picture: so an encoder that doesn't fit its preprocessing fails here."""
        pixels = torch.zeros(1, 3, *self.preprocessing.size, device=self.device, dtype=self.dtype)
        try:
            with torch.no_grad():
                return self._tokens(pixels).shape[-1]
        except EncoderError:
            raise
        except (ValueError, RuntimeError) as error:
            raise EncoderError(
                f"{self.name} can't see pictures of {self.preprocessing.size} pixels, which its own preprocessing "
                f"makes ({error}): its files don't belong together, fetch them again"
            ) from error

    def _plain_arithmetic(self):
        """Training may run in mixed precision around this: cached and fresh features must agree."""
        return torch.autocast(self.device.type, enabled=False)

    def _hash(self) -> str:
        """16 hexadecimal digits. Tensors are sorted by content, as their names change between a library's versions."""
        digests = sorted(
            hashlib.sha256(str(tuple(value.shape)).encode() + value.cpu().contiguous().numpy().tobytes()).hexdigest()
            for value in self.backbone.state_dict().values()
            if value.is_floating_point()
        )
        probes = self.backbone.tokenize(list(PROBES)) if self.has_text else {}
        parts = {
            "weights": digests,
            "architecture": self.backbone.architecture,
            "preprocessing": self.preprocessing.to_dict(),
            "patch_tokens": self.patch_tokens,
            "sentences": {key: torch.as_tensor(value).tolist() for key, value in probes.items()},
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
