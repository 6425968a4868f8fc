"""The text that goes on learning while pictures and facts stay as they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from test_contrastive import TINY

from worldmodel.vision_language.contrastive import Pretraining, make_model, make_tokenizer
from worldmodel.vision_language.fact_encoder import Vocabulary
from worldmodel.vision_language.locked import LockedTuning

WORDS = ["red", "green", "blue", "white"]


def made(updates: int) -> LockedTuning:
    torch.manual_seed(0)
    tokenizer = make_tokenizer(WORDS)
    vocabulary = Vocabulary(relations=4, subjects=1, named_by=(2,), labels=1)
    config = replace(TINY, learning_rate=1e-2)
    return LockedTuning(
        Pretraining(make_model(config, len(tokenizer), 32), tokenizer, config, 1, vocabulary=vocabulary), updates
    )


def test_sentences_come_to_mean_the_facts_that_they_say_and_nothing_else_changes():
    tuning, rng = made(60), np.random.default_rng(0)
    before = {name: value.clone() for name, value in tuning.pretraining.model.state_dict().items()}
    facts = {name: value.clone() for name, value in tuning.facts.state_dict().items()}
    images, nothing = F.normalize(torch.randn(4, 32), dim=-1), np.zeros((4, 4), np.float32)
    said = np.arange(4), np.arange(4), np.full((4, 1, 1), -1)
    for update in range(60):
        losses = tuning.update(update, images, WORDS, nothing, nothing, rng, said)
    with torch.no_grad():
        meant = tuning.facts(*map(torch.from_numpy, said[1:]))
        texts = tuning.pretraining.texts(WORDS, np.random.default_rng(1))
    assert losses["facts"] < 0.2 and (texts @ meant.T).argmax(1).tolist() == [0, 1, 2, 3]
    after = tuning.pretraining.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items() if not name.startswith("text_model"))
    assert not all(torch.equal(after[name], value) for name, value in before.items())
    assert all(torch.equal(tuning.facts.state_dict()[name], value) for name, value in facts.items())


def test_pictures_are_encoded_as_in_use_and_every_sentence_counts():
    tuning, rng = made(1), np.random.default_rng(0)
    pictures = rng.integers(0, 256, (5, 32, 32, 3)).astype(np.uint8)
    images = tuning.encoded(pictures)
    with torch.no_grad():
        seen = tuning.model.vision_model(pixel_values=tuning.pretraining.preprocess(torch.from_numpy(pictures)))
    assert torch.allclose(images, F.normalize(seen.pooler_output), atol=2e-2) and not images.requires_grad
    texts = tuning.pretraining.texts([*WORDS, "red"] * 3, rng)
    true, known = np.zeros((5, 15), np.float32), np.ones((5, 15), np.float32)
    own = known.copy()
    for place in range(5):
        own[place, [5 + place, 10 + place]] *= tuning.config.own_weight
    scale, bias = tuning.model.logit_scale.exp(), tuning.model.logit_bias
    expected = (torch.from_numpy(own) * F.softplus(scale * images @ texts.T + bias)).sum() / 5
    loss = tuning.pretraining.pairs_loss(images, texts, true, known)
    assert torch.allclose(loss, expected, rtol=1e-4)
