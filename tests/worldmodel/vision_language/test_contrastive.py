"""The pretraining of the embedded encoder: its loss, its updates, its words, and the checkpoint that any loader reads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_encoder import SENTENCES, make_tiny_encoder

from worldmodel.vision_language import load
from worldmodel.vision_language.contrastive import (
    DualEncoderConfig,
    Pretraining,
    make_model,
    make_tokenizer,
    save,
    sigmoid_loss,
)
from worldmodel.vision_language.fact_encoder import Facts, Vocabulary
from worldmodel.vision_language.scoring import area_under_curve, retrieved

TINY = DualEncoderConfig(
    width=32, layers=1, heads=2, patch=16, text_width=32, text_layers=1, text_heads=2, learning_rate=3e-3
)


def test_the_loss_is_a_sigmoids_for_every_pair_that_is_known():
    images, texts = (F.normalize(torch.randn(n, 4), dim=-1) for n in (3, 5))
    true, weight = torch.rand(3, 5) < 0.4, (torch.rand(3, 5) < 0.8).float()
    scale, bias = torch.tensor(7.0), torch.tensor(-2.0)
    logits = 7.0 * images @ texts.T - 2.0
    expected = F.binary_cross_entropy_with_logits(logits, true.float(), weight, reduction="sum") / 3
    assert torch.allclose(sigmoid_loss(images, texts, true.float(), weight, scale, bias), expected)


def test_colours_are_learned_and_a_saved_encoder_says_the_same(tmp_path):
    """Four pictures of one colour each: the sentence of a colour finds its picture, through the files too."""
    colours = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220), "white": (240, 240, 240)}
    rng = np.random.default_rng(0)
    shades = np.array(list(colours.values()), np.int64)
    sentences = [f"all is {name}" for name in colours]
    torch.manual_seed(0)
    tokenizer = make_tokenizer(sentences)
    model = make_model(TINY, len(tokenizer), 32)
    training = Pretraining(model, tokenizer, TINY, updates=150)
    losses = []
    for update in range(150):
        which = rng.integers(4, size=8)
        pictures = np.clip(shades[which][:, None, None] + rng.integers(-15, 15, (8, 32, 32, 3)), 0, 255).astype(
            np.uint8
        )
        said = np.concatenate([which, rng.integers(4, size=8)])
        true = which[:, None] == said
        losses.append(
            training.update(update, pictures, [sentences[i] for i in said], true, np.ones_like(true), rng)["pairs"]
        )
    assert np.mean(losses[-5:]) < 0.3 * np.mean(losses[:5])

    save(tmp_path / "encoder", model, tokenizer, 32)
    encoder = load(tmp_path / "encoder")
    pictures = shades[:, None, None].repeat(32, 1).repeat(32, 2).astype(np.uint8)
    scores = encoder.encode_images(pictures)[:, 0] @ encoder.encode_text(sentences).T
    assert scores.argmax(1).tolist() == [0, 1, 2, 3]
    model.eval()
    with torch.no_grad():
        mine = F.normalize(
            model.vision_model(pixel_values=training.preprocess(torch.from_numpy(pictures))).pooler_output
        )
    assert torch.allclose(mine, encoder.encode_images(pictures)[:, 0], atol=2e-2)  # float16 on disk
    assert encoder.logit_scale == pytest.approx(model.logit_scale.exp().item(), rel=1e-2)


def test_patches_know_where_they_are():
    """Column and row are read linearly from the positions that an untrained encoder begins with."""
    torch.manual_seed(0)
    model = make_model(DualEncoderConfig(width=64, heads=2, patch=8), 8, 64)
    places = model.vision_model.embeddings.position_embedding.weight.detach()
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    asked = torch.stack([rows.flatten(), columns.flatten()], 1)
    asked = asked - asked.mean(0)
    read = places @ torch.linalg.lstsq(places, asked, driver="gelsd").solution
    assert (read - asked).square().mean() < 0.01 * asked.square().mean()
    assert 0.5 < places.std() < 1.2


def test_parts_are_read_from_the_patch_that_shows_them():
    """One bright patch of four in a dark picture: which of two colours it has is read from that patch."""
    rng, tokenizer = np.random.default_rng(0), make_tokenizer(["nothing"])
    torch.manual_seed(0)
    training = Pretraining(make_model(TINY, len(tokenizer), 32), tokenizer, TINY, updates=40, attributes=(2, 3))
    untold = np.zeros((8, 16), bool)

    def drawn():
        cells, colours = rng.integers(4, size=(8, 1)), rng.integers(2, size=8)
        pictures = np.full((8, 32, 32, 3), 30, np.uint8)
        for picture, (cell,), colour in zip(pictures, cells, colours, strict=True):
            row, column = 16 * (cell // 2), 16 * (cell % 2)
            picture[row : row + 16, column : column + 16, 2 * colour] = 250
        return pictures, cells, np.stack([colours, np.full(8, -1)], -1)[:, None]  # the second attribute is not known

    for update in range(40):
        pictures, cells, values = drawn()
        training.update(update, pictures, ["nothing"] * 16, untold, untold, rng, (cells, values))
    pictures, cells, values = drawn()
    with torch.no_grad():
        patches = training.model.vision_model(pixel_values=training.preprocess(torch.from_numpy(pictures)))
        read = training.teachers["reader"](patches.last_hidden_state[np.arange(8), cells[:, 0]])[:, :2]
    assert read.argmax(-1).tolist() == values[:, 0, 0].tolist()


def test_a_part_is_not_told_apart_from_excluded_values():
    """No gradient reaches the value that is excluded, and the others' chances are among themselves."""
    tokenizer = make_tokenizer(["nothing"])
    training = Pretraining(make_model(TINY, len(tokenizer), 32), tokenizer, TINY, updates=1, attributes=(3,))
    patches, cells, values = torch.randn(2, 4, TINY.width), np.array([[1], [2]]), np.array([[[0]], [[2]]])
    excluded = np.zeros((2, 1, 3), bool)
    excluded[:, :, 1] = True
    reader = training.teachers["reader"]
    loss = training._parts_loss(patches, cells, values, excluded)
    loss.backward()
    assert not reader.weight.grad[1].any() and reader.weight.grad[[0, 2]].any()
    logits = reader(patches[[0, 1], [1, 2]])[:, [0, 2]]
    assert torch.allclose(loss, F.cross_entropy(logits, torch.tensor([0, 1])))


def test_the_rate_rises_and_comes_down():
    training = Pretraining(make_model(TINY, 8, 32), None, TINY, updates=100)
    shares = [training.share(update) for update in range(100)]
    assert shares[0] == 1 / 5 and max(shares) == 1 and shares.index(1) in (4, 5)
    assert shares[-1] < 0.01 and all(a >= b for a, b in zip(shares[5:], shares[6:], strict=False))


def test_sentences_wait_where_facts_teach_places_first():
    """Before `sentences_from` no sentence changes anything; after it, it does."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer(SENTENCES)
    config = replace(TINY, sentences_from=0.5)
    vocabulary = Vocabulary(relations=2, subjects=1, named_by=(2,), labels=1)
    training = Pretraining(make_model(config, len(tokenizer), 32), tokenizer, config, 4, vocabulary=vocabulary)
    rng = np.random.default_rng(0)
    words, learned = training.model.text_model.embeddings.token_embedding.weight, []
    for update in range(4):
        pictures = rng.integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
        true = rng.random((2, 4)) < 0.5
        codes = np.array([0, 1]), np.array([0, 1]), np.array([[[0]], [[1]]]), np.array([1.0, 0.0])
        said = np.array([0]), np.array([0]), np.array([[[0]]])
        facts = Facts(codes, (np.ones((2, 1)), np.ones((2, 1))), said)
        before = words.detach().clone()
        losses = training.update(
            update, pictures, [*SENTENCES, SENTENCES[0]], true, np.ones_like(true), rng, facts=facts
        )
        learned.append(not torch.equal(before, words))
        assert ("pairs" in losses) == (update >= 2)
    assert learned == [False, False, True, True]


def test_the_same_seed_gives_the_same_weights():
    def trained() -> torch.Tensor:
        torch.manual_seed(0)
        rng, tokenizer = np.random.default_rng(0), make_tokenizer(SENTENCES)
        training = Pretraining(make_model(TINY, len(tokenizer), 32), tokenizer, TINY, updates=3)
        for update in range(3):
            pictures = rng.integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
            true = rng.random((2, 4)) < 0.5
            training.update(update, pictures, [*SENTENCES, SENTENCES[0]], true, np.ones_like(true), rng)
        return torch.cat([p.detach().flatten() for p in training.model.parameters()])

    assert torch.equal(trained(), trained())


def test_words_in_any_case_and_words_never_heard_of(tmp_path):
    encoder = load(make_tiny_encoder(tmp_path))
    plain, shouted, strange = encoder.encode_text(
        ["the pole hangs down", "The POLE, hangs down!", "the zebra hangs down"]
    )
    assert torch.equal(plain, shouted)
    assert not torch.allclose(plain, strange) and strange.isfinite().all()


def test_retrieval_counts_pictures_whose_own_sentence_scores_highest():
    scores, rng = np.eye(6) + 0.1, np.random.default_rng(0)
    true = np.eye(6, dtype=bool)
    assert retrieved(scores, true, np.ones_like(true), 6, rng).all()
    scores[0, 1] = 2.0
    assert retrieved(scores, true, np.ones_like(true), 6, rng).tolist() == [False, *[True] * 5]
    true[0, 1] = True  # it is true of the picture as well: no mistake
    assert retrieved(scores, true, np.ones_like(true), 5, rng)[0]
    with pytest.raises(ValueError, match="picture 0 has 4 sentences"):
        retrieved(scores, true, np.ones_like(true), 6, rng)


def test_area_under_the_curve():
    assert area_under_curve(np.array([3.0, 2.0, 1.0]), np.array([True, True, False])) == 1.0
    assert area_under_curve(np.array([1.0, 1.0]), np.array([True, False])) == 0.5
    assert area_under_curve(np.array([0.0, 1.0, 2.0]), np.array([True, False, True])) == 0.5
