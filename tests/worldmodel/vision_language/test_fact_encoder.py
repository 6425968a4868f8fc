"""Facts as teachers of the picture's encoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from worldmodel.vision_language.fact_encoder import FactEncoder, Facts, Vocabulary, facts_loss, labels_loss

VOCABULARY = Vocabulary(relations=2, subjects=2, named_by=(3, 2), labels=4)


def told(rng, pictures: int, count: int, sentences: int) -> Facts:
    def facts(n):
        return rng.integers(2, size=n), rng.integers(-1, 2, (n, 2, 2))

    codes = (rng.integers(pictures, size=count), *facts(count), rng.random(count) < 0.5)
    return Facts(
        codes, (rng.random((pictures, 4)) < 0.5, rng.random((pictures, 4)) < 0.7), (np.arange(sentences), *facts(2))
    )


def test_subjects_have_roles_and_what_is_not_said_matters():
    torch.manual_seed(0)
    encoder, relation = FactEncoder(VOCABULARY, 8), torch.zeros(1, dtype=torch.long)
    plain, swapped, vague = (
        encoder(relation, torch.tensor([subjects]))
        for subjects in ([[0, 1], [2, 0]], [[2, 0], [0, 1]], [[0, -1], [2, 0]])
    )
    assert torch.allclose(plain.norm(dim=-1), torch.ones(1))
    assert not torch.allclose(plain, swapped, atol=1e-3) and not torch.allclose(plain, vague, atol=1e-3)


def test_the_losses_are_those_of_each_fact_label_and_sentence():
    torch.manual_seed(0)
    rng, encoder = np.random.default_rng(0), FactEncoder(VOCABULARY, 8)
    images, texts = (F.normalize(torch.randn(n, 8), dim=-1) for n in (3, 2))
    scale, bias, facts = torch.tensor(5.0), torch.tensor(-1.0), told(rng, 3, 6, 2)
    expected = 0.0
    for picture, relation, subjects, true in zip(*facts.codes, strict=True):
        fact = encoder(torch.tensor([relation]), torch.tensor(subjects[None]))[0]
        chance = torch.sigmoid(5 * images[picture] @ fact - 1)
        expected -= (chance if true else 1 - chance).log() / 6
    said = encoder(*map(torch.from_numpy, facts.said[1:]))
    expected += 0.25 * 0.5 * (texts - said).square().sum(-1).mean()
    assert facts_loss(encoder, images, texts, scale, bias, facts).item() == pytest.approx(expected.item(), rel=1e-4)

    chances = torch.sigmoid(encoder.labels(5 * images))
    degree, weight = map(torch.from_numpy, facts.labels)
    each = -torch.where(degree, chances, 1 - chances).log()
    assert labels_loss(encoder, images, scale, facts).item() == pytest.approx(each[weight > 0].mean().item(), rel=1e-4)


def test_sentences_follow_the_facts_and_not_the_other_way_round():
    torch.manual_seed(0)
    encoder, facts = FactEncoder(VOCABULARY, 8), told(np.random.default_rng(0), 3, 6, 2)
    images, texts = torch.zeros(3, 8), torch.randn(2, 8, requires_grad=True)
    codes = tuple(np.zeros((1, *array.shape[1:]), array.dtype) for array in facts.codes)
    loss = facts_loss(encoder, images, texts, torch.tensor(1.0), torch.tensor(0.0), facts._replace(codes=codes))
    loss.backward()
    assert texts.grad.abs().sum() > 0
    assert not encoder.relation.weight.grad.abs().sum()  # images are 0: the facts' own part has no gradient either
