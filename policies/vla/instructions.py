"""Sentences to what a policy reads of them: the whole sentence's embedding, and its words in their context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worldmodel.vision_language.encoder import WITH_TEXT, EncoderError
from worldmodel.vision_language.semantics import Semantics

KEPT = 20_000  # sentences in memory; each takes about 10 kB with the embedded encoder


@dataclass(frozen=True)
class Read:
    """B sentences that were read.

    Attributes:
        whole: unit vectors `[B, E]`, which compare with pictures.
        words: `[B, L, F]`, zeros where there is none.
        present: bool `[B, L]`.
    """

    whole: Tensor
    words: Tensor
    present: Tensor


class Instructions:
    """Reads sentences with a frozen encoder, each once.

    Args:
        semantics: has the encoder.
        words: L, places for words; what is longer is cut off, and stays in the whole sentence's embedding.

    Raises:
        EncoderError: the encoder reads no text.
    """

    def __init__(self, semantics: Semantics, words: int):
        self.semantics, self.length = semantics, words
        encoder = semantics.encoder()
        if not encoder.has_text:
            raise EncoderError(f"{encoder.name} reads no instructions: {WITH_TEXT}")
        self._known: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        self.width = encoder.encode_words(["a"])[0].shape[-1] if encoder.has_words else 0
        self.dim = encoder.dim

    def __deepcopy__(self, memo) -> Instructions:
        return self

    def read(self, sentences: Sequence[str], device: torch.device | str = "cpu") -> Read:
        """What B sentences say, on `device`."""
        new = list(dict.fromkeys(str(sentence) for sentence in sentences if str(sentence) not in self._known))
        if new:
            if len(self._known) + len(new) > KEPT:
                self._known.clear()
                new = list(dict.fromkeys(str(sentence) for sentence in sentences))
            self._known.update(zip(new, self._encode(new), strict=True))
        rows = [self._known[str(sentence)] for sentence in sentences]
        return Read(*(torch.stack(part).to(device) for part in zip(*rows, strict=True)))

    def nothing(self, rows: int, device: torch.device | str = "cpu") -> Read:
        """What is read where nothing was said."""
        return Read(
            torch.zeros(rows, self.dim, device=device),
            torch.zeros(rows, self.length if self.width else 0, self.width, device=device),
            torch.zeros(rows, self.length if self.width else 0, dtype=torch.bool, device=device),
        )

    def _encode(self, sentences: list[str]) -> list[tuple[Tensor, Tensor, Tensor]]:
        encoder, result = self.semantics.encoder(), []
        for start in range(0, len(sentences), encoder.batch_size):
            part = sentences[start : start + encoder.batch_size]
            blank = self.nothing(len(part))
            blank.whole.copy_(encoder.encode_text(part))
            if self.width:
                features, present = (value.cpu()[:, : self.length] for value in encoder.encode_words(part))
                blank.words[:, : features.shape[1]] = features * present[..., None]
                blank.present[:, : features.shape[1]] = present
            result += list(zip(blank.whole, blank.words, blank.present, strict=True))
        return result
