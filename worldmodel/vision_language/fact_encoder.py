"""What a sentence says, encoded without its words: many facts cost less than one sentence."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SENTENCE_WEIGHT = 0.25  # of a sentence's distance from its fact, beside the facts


class Vocabulary(NamedTuple):
    """Of facts that are numbers.

    Attributes:
        relations: how many there are.
        subjects: of a fact, at most.
        named_by: how many values each attribute has by which a subject is called.
        labels: questions that are asked of every picture.
    """

    relations: int
    subjects: int
    named_by: tuple[int, ...]
    labels: int


class FactEncoder(nn.Module):
    """Encodes facts as the text encoder does sentences: whether a fact holds is a matter of the angle between it and the
    picture. It teaches the picture's encoder, and is of no use afterwards.

    Args:
        vocabulary: of the facts.
        embedding: E, numbers of the picture's embedding.
        width: of the layers.
    """

    def __init__(self, vocabulary: Vocabulary, embedding: int, width: int = 256):
        super().__init__()
        self.relation = nn.Embedding(vocabulary.relations, width)
        self.words = nn.ModuleList(nn.Embedding(values + 1, width) for values in vocabulary.named_by)
        self.subject = nn.Sequential(nn.GELU(), nn.Linear(width, width))
        self.role = nn.ModuleList(nn.Linear(width, width) for _ in range(vocabulary.subjects))
        self.out = nn.Sequential(
            nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, embedding), _Normalize()
        )
        self.labels = nn.Linear(embedding, vocabulary.labels)

    def forward(self, relation: Tensor, subjects: Tensor) -> Tensor:
        """Unit vectors `[F, E]` of `relation [F]` and `subjects [F, subjects, attributes]`, -1 for what is not said."""
        called = self.subject(sum(word(subjects[..., place] + 1) for place, word in enumerate(self.words)))
        return self.out(self.relation(relation) + sum(role(called[:, i]) for i, role in enumerate(self.role)))


class _Normalize(nn.Module):
    def forward(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=-1)


class Facts(NamedTuple):
    """What updates are told without sentences; arrays.

    Attributes:
        codes: `picture [F]`, `relation [F]`, `subjects [F, subjects, attributes]` and `degree [F]`, from 0 to 1.
        labels: `[B, labels]` twice, the degree to which it holds of a picture, and how much that counts.
        said: `sentence [M]`, `relation [M]` and `subjects [M, subjects, attributes]`: what some of the sentences say.
    """

    codes: tuple
    labels: tuple
    said: tuple


def facts_loss(
    encoder: FactEncoder, images: Tensor, texts: Tensor | None, scale: Tensor, bias: Tensor, told: Facts
) -> Tensor:
    """Whether facts hold, as a mean cross-entropy, and half the mean squared distance between a sentence and the fact that
    it says, towards the fact.

    Args:
        images, texts: unit vectors `[B, E]` and `[S, E]`; without texts there is no distance.
        scale, bias: of the logits.
    """
    picture, relation, subjects, degree = map(torch.as_tensor, told.codes)
    logits = scale * (images[picture] * encoder(relation, subjects)).sum(-1) + bias
    loss = F.binary_cross_entropy_with_logits(logits, degree.float())
    return loss if texts is None else loss + SENTENCE_WEIGHT * apart(encoder, texts, told.said)


def apart(encoder: FactEncoder, texts: Tensor, said: tuple) -> Tensor:
    """Half the mean squared distance between sentences and the facts that they say (`Facts.said`), towards the facts."""
    sentence, relation, subjects = map(torch.as_tensor, said)
    return (1 - (texts[sentence] * encoder(relation, subjects).detach()).sum(-1)).sum() / max(1, len(sentence))


def labels_loss(encoder: FactEncoder, images: Tensor, scale: Tensor, told: Facts) -> Tensor:
    """Mean cross-entropy of the labels, read linearly from `images [B, E]`."""
    degree, weight = (torch.as_tensor(array).float() for array in told.labels)
    loss = F.binary_cross_entropy_with_logits(encoder.labels(scale * images), degree, weight, reduction="sum")
    return loss / weight.sum().clamp(min=1e-6)
