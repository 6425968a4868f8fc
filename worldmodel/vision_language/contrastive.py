"""Trains a small dual encoder on pictures and sentences of which it is known what is true of what."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.muon import Muon
from worldmodel.precision import reduced_precision
from worldmodel.vision_language.fact_encoder import FactEncoder, Facts, Vocabulary, facts_loss, labels_loss
from worldmodel.vision_language.preprocessing import Preprocessing

WORD = re.compile(r"[a-z]+")
LONGEST = 28  # words of a sentence
UNKNOWN_WORDS = (
    0.3  # at most, of the words of half of all sentences, become the unknown one, as words never seen arrive
)
MEAN = STD = (0.5, 0.5, 0.5)
_WAVES = torch.tensor([0.25, 0.5, 1.0, 2.0, 4.0])  # half turns over the grid
_WARMUP = 100  # updates, at most
_PAD, _END, _UNKNOWN = "<pad>", "</s>", "<unk>"


@dataclass(frozen=True)
class DualEncoderConfig:
    """Size and training of the embedded encoder.

    Attributes:
        width, layers, heads: of the picture's transformer; an embedding is as wide.
        patch: pixels of a patch's side.
        text_width, text_layers, text_heads: of the sentence's transformer.
        batch_size: pictures of an update, each with two sentences.
        learning_rate: of Adam, at its highest; see `Pretraining.share`.
        matrix_rate: likewise, of the matrices in the transformers, which Muon learns.
        own_weight: what a picture's own doubtful sentence counts, beside one that belongs to another picture.
        parts_weight: of reading, from the patch where it is, what each part of a picture is.
        facts_weight: of telling true facts about a picture from false ones, without their sentences.
        labels_weight: of the answers to questions that are asked of every picture.
        sentences_from: the share of the updates that come before the first with sentences: whoever reads of places before the
            picture tells them learns to leave them out.
    """

    width: int = 192
    layers: int = 3
    heads: int = 16
    patch: int = 8
    text_width: int = 128
    text_layers: int = 2
    text_heads: int = 4
    batch_size: int = 128
    learning_rate: float = 1.5e-3
    matrix_rate: float = 0.02
    weight_decay: float = 0.02
    own_weight: float = 8.0
    parts_weight: float = 6.0
    facts_weight: float = 16.0
    labels_weight: float = 300.0
    sentences_from: float = 0.1


def make_tokenizer(sentences: Iterable[str]):
    """A `transformers` tokenizer with the words of the sentences, in lower case; it says `<unk>` of any other."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = sorted({word for sentence in sentences for word in WORD.findall(sentence.lower())})
    vocabulary = {word: number for number, word in enumerate([_PAD, _END, _UNKNOWN, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=_UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[^a-z]+"), behavior="removed")
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {_END}", special_tokens=[(_END, 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=_PAD,
        eos_token=_END,
        unk_token=_UNKNOWN,
        model_max_length=LONGEST,
        model_input_names=["input_ids"],  # SigLIP reads its last position, and every position is filled
    )


def make_model(config: DualEncoderConfig, words: int, image_size: int) -> nn.Module:
    """An untrained `transformers.SiglipModel` (Zhai et al. 2023), whose patches know where they are.

    The class begins with random embeddings of positions, much smaller than those of the patches: then what is where has to
    be found patch by patch. They begin as `coordinates` instead, and are learned from there.
    """
    from transformers import SiglipConfig, SiglipModel

    text = {
        "hidden_size": config.text_width,
        "num_attention_heads": config.text_heads,
        "vocab_size": words,
        "max_position_embeddings": LONGEST,
        "num_hidden_layers": config.text_layers,
        "intermediate_size": 2 * config.text_width,
        "projection_size": config.width,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 1,
    }
    vision = {
        "hidden_size": config.width,
        "num_attention_heads": config.heads,
        "image_size": image_size,
        "patch_size": config.patch,
        "num_hidden_layers": config.layers,
        "intermediate_size": 2 * config.width,
    }
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    with torch.no_grad():
        model.logit_scale.fill_(np.log(10.0))
        model.logit_bias.fill_(-4.0)
        places = coordinates(image_size // config.patch, config.width)
        model.vision_model.embeddings.position_embedding.weight.copy_(places)
    return model


def coordinates(side: int, width: int) -> Tensor:
    """Embeddings of the places of a `side x side` grid, `[side * side, width]`: random mixtures of column and row and of their
    sines and cosines, of an eighth of a wave over the grid to two waves."""
    across = torch.linspace(-1.0, 1.0, side)
    places = torch.cartesian_prod(across, across)  # [side * side, 2], row by row
    phases = (places[:, :, None] * _WAVES * (torch.pi / 2)).flatten(1)
    features = torch.cat([phases.sin(), phases.cos(), places, places], 1)
    return features @ torch.randn(features.shape[1], width) / features.shape[1] ** 0.5


def sigmoid_loss(images: Tensor, texts: Tensor, true: Tensor, weight: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """The pairwise sigmoid loss of SigLIP (Zhai et al. 2023, algorithm 1), for which every pair that is true is positive,
    not only those that were drawn together.

    Args:
        images, texts: unit vectors `[B, E]` and `[S, E]`.
        true: `[B, S]`, 1 where it is true, between 0 and 1 where it nearly is.
        weight: `[B, S]`, 0 where it is not known.
        scale, bias: of the logits.
    """
    logits = scale * images @ texts.T + bias
    return (weight * (F.softplus(logits) - true * logits)).sum() / len(images)


class Updates:
    """Steps of two optimizers whose rates come up and go down together.

    Args:
        named: the parameters, by name; matrices in layers of a transformer are Muon's, the rest is Adam's.
        updates: how many there will be.

    Attributes:
        optimizers: of the matrices in the transformers, and of the rest.
    """

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], config: DualEncoderConfig, updates: int):
        named = list(named)
        self.config, self.parameters = config, [p for _, p in named]
        hidden = [p for name, p in named if p.ndim == 2 and ".layers." in name]
        chosen = set(map(id, hidden))
        others = [p for p in self.parameters if id(p) not in chosen]
        decayed = {"params": [p for p in others if p.ndim > 1], "weight_decay": config.weight_decay}
        plain = {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0}
        self.optimizers = {
            "matrices": Muon(hidden, config.matrix_rate, weight_decay=config.weight_decay),
            "others": torch.optim.AdamW([decayed, plain], config.learning_rate, betas=(0.9, 0.98)),
        }
        self._rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in self.optimizers.items()}
        self.updates, self.warmup = updates, max(1, min(_WARMUP, updates // 20))

    def share(self, update: int) -> float:
        """Of the learning rates, at an update: up linearly over the first of them, then down a half cosine to zero."""
        done = (update - self.warmup) / max(1, self.updates - self.warmup)
        return min((update + 1) / self.warmup, 0.5 + 0.5 * np.cos(np.pi * min(max(done, 0.0), 1.0)))

    def step(self, number: int, loss: Tensor) -> None:
        """Update `number`, from 0, of the parameters."""
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = self._rates[name] * self.share(number)
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 3.0)
        for optimizer in self.optimizers.values():
            optimizer.step()


class Pretraining(Updates):
    """The updates of one model.

    Args:
        model, tokenizer: of `make_model` and `make_tokenizer`.
        updates: how many there will be, for the learning rate.
        attributes: of a picture's parts, how many values each has.
        attribute_weights: what reading each of them counts; None: all alike.
        vocabulary: of the facts that updates come with, if any do.

    Attributes:
        teachers: what reads attributes from patches and encodes facts; of no use after training.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer,
        config: DualEncoderConfig,
        updates: int,
        attributes: Sequence[int] = (1,),
        vocabulary: Vocabulary | None = None,
        attribute_weights: Sequence[float] | None = None,
    ):
        self.model, self.tokenizer = model.train(), tokenizer
        if (
            model.device.type == "cpu"
        ):  # over 64 patches and 12 numbers a head, nearly twice as fast as torch's fused one
            model.set_attn_implementation("eager")
        self.attributes = list(attributes)
        self.attribute_weights = list(attribute_weights or [1.0] * len(self.attributes))
        self.teachers = nn.ModuleDict({"reader": nn.Linear(config.width, sum(attributes))})
        if vocabulary is not None:
            self.teachers["facts"] = FactEncoder(vocabulary, config.width)
        side = model.config.vision_config.image_size
        self.preprocess = Preprocessing("squash", (side, side), None, MEAN, STD)
        super().__init__([*model.named_parameters(), *self.teachers.named_parameters()], config, updates)
        self.silent = int(updates * config.sentences_from) if vocabulary is not None else 0

    def update(
        self,
        number: int,
        pictures: np.ndarray,
        sentences: list[str],
        true: np.ndarray,
        known: np.ndarray,
        rng: np.random.Generator,
        parts: tuple[np.ndarray, ...] | None = None,
        facts: Facts | None = None,
    ) -> dict[str, float]:
        """One update; its losses, without their weights: of the `pairs`, the `parts`, the `facts` and the `labels`.

        Args:
            number: of the update, from 0.
            pictures: uint8 `[B, H, W, 3]`.
            sentences: S = 2 B; sentence i and B + i were made for picture i, the second of them true or not.
            true: float or bool `[B, S]`, the degree to which it is true.
            known: float or bool `[B, S]`, 0 where it is not known, else what it counts.
            parts: int `[B, P]`, which patch shows the middle of each part, -1 for none; int `[B, P, attributes]`, what it is,
                -1 where it has no such attribute; and perhaps bool `[B, P, values of all attributes]`, from which values it
                is not told apart. None teaches no parts.
            facts: about the pictures and the sentences. None teaches none.
        """
        with reduced_precision(self.model.device):
            seen = self.model.vision_model(pixel_values=self.preprocess(torch.from_numpy(pictures)))
        images = F.normalize(seen.pooler_output.float())
        scale, bias = self.model.logit_scale.exp(), self.model.logit_bias
        losses, texts = {}, None
        if number >= self.silent:
            texts = self.texts(sentences, rng)
            losses["pairs"] = self.pairs_loss(images, texts, true, known)
        if parts is not None:
            losses["parts"] = self._parts_loss(seen.last_hidden_state.float(), *parts)
        if facts is not None:
            teacher = self.teachers["facts"]
            losses["facts"] = facts_loss(teacher, images, texts, scale, bias, facts)
            losses["labels"] = labels_loss(teacher, images, scale, facts)
        weights = {"pairs": 1.0, **{name: getattr(self.config, f"{name}_weight") for name in losses if name != "pairs"}}
        total = sum(weights[name] * loss for name, loss in losses.items())
        self.step(number, total)
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def pairs_loss(self, images: Tensor, texts: Tensor, true: np.ndarray, known: np.ndarray) -> Tensor:
        """The sigmoid loss of pictures and their sentences, as `update` takes them; but the first, a picture's own are
        doubtful and weigh more."""
        batch, weight = len(images), torch.from_numpy(known.astype(np.float32))
        own = torch.arange(batch)
        for first in range(batch, len(texts), batch):
            weight[own, first + own] *= self.config.own_weight
        scale, bias = self.model.logit_scale.exp(), self.model.logit_bias
        return sigmoid_loss(images, texts, torch.from_numpy(true), weight, scale, bias)

    def texts(self, sentences: list[str], rng: np.random.Generator) -> Tensor:
        """Unit vectors of the sentences, `[S, W]`, in which some words are exchanged for the unknown one."""
        words = self.tokenizer(
            sentences, padding="max_length", truncation=True, max_length=LONGEST, return_tensors="np"
        )["input_ids"]
        share = np.maximum(rng.uniform(-UNKNOWN_WORDS, UNKNOWN_WORDS, (len(words), 1)), 0.0)
        unknown = (rng.random(words.shape) < share) & (words > 2)
        words = torch.from_numpy(np.where(unknown, 2, words))
        with reduced_precision(self.model.device):
            return F.normalize(self.model.text_model(input_ids=words).pooler_output.float())

    def _parts_loss(
        self, patches: Tensor, cells: np.ndarray, values: np.ndarray, excluded: np.ndarray | None = None
    ) -> Tensor:
        """Cross-entropy of each attribute, of `patches [B, cells, W]`, summed over the attributes with their weights."""
        rows, parts = np.nonzero(cells >= 0)
        logits = self.teachers["reader"](patches[rows, cells[rows, parts]])
        if excluded is not None:
            logits = logits.masked_fill(torch.from_numpy(excluded[rows, parts]), -torch.inf)
        targets = torch.from_numpy(values[rows, parts].astype(np.int64))
        losses = []
        for place, logit in enumerate(logits.split(self.attributes, -1)):
            known = targets[:, place] >= 0
            if known.any():
                losses.append(self.attribute_weights[place] * F.cross_entropy(logit[known], targets[known, place]))
        return torch.stack(losses).sum() if losses else patches.sum() * 0.0


def save(folder: Path, model: nn.Module, tokenizer, image_size: int, dtype: torch.dtype = torch.float16) -> None:
    """Write a checkpoint as `transformers` does: config, weights in `dtype`, tokenizer and image processor."""
    from transformers import SiglipImageProcessor

    folder.mkdir(parents=True, exist_ok=True)
    copy.deepcopy(model).to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    SiglipImageProcessor(
        size={"height": image_size, "width": image_size}, image_mean=MEAN, image_std=STD, resample=3
    ).save_pretrained(folder)
