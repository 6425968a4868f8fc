"""CLIP, SigLIP, SigLIP 2, DINOv2 and DINOv3 from the Hugging Face hub or a folder in its format."""

from __future__ import annotations

import importlib.util
import json
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from worldmodel.vision_language.encoder import PROBES, WITH_TEXT, Backbone, EncoderError
from worldmodel.vision_language.preprocessing import Preprocessing, from_hugging_face

TEXT_CLASSES = {"clip": "CLIPModel", "siglip": "SiglipModel"}
VISION_CLASSES = {
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
    "dinov3_vit": "DINOv3ViTModel",
    "dinov3_convnext": "DINOv3ConvNextModel",
}
# Of config.json, what says nothing about the function that the weights compute.
BOOKKEEPING = {"transformers_version", "torch_dtype", "dtype", "_name_or_path", "_commit_hash", "architectures"}


class TextAndVision(Backbone):
    """CLIP and SigLIP: a picture's and a sentence's embedding in one space."""

    has_text = has_words = True

    def __init__(self, family: str, config: dict, model, tokenizer):
        super().__init__()
        self.family, self.architecture = family, _architecture(config)
        self.model = model
        self.tokenizer = tokenizer
        self.logit_scale = model.logit_scale.exp().item()
        if family == "siglip":
            self.logit_bias = model.logit_bias.item()

    def image_features(self, pixels: Tensor, patches: bool) -> tuple[Tensor, Tensor | None]:
        output = self.model.get_image_features(pixel_values=pixels)
        if output.pooler_output is None:
            raise EncoderError(
                "this SigLIP has no pooling head (vision_use_head=false), and so no embedding of a picture"
            )
        features = output.last_hidden_state if patches else None
        if patches and self.family == "clip":
            features = self.model.visual_projection(self.model.vision_model.post_layernorm(features[:, 1:]))
        return output.pooler_output, features

    def tokenize(self, sentences: list[str]) -> dict[str, Tensor]:
        limit = self.model.config.text_config.max_position_embeddings
        if type(self.tokenizer).__name__.startswith(
            "Gemma"
        ):  # SigLIP 2's, which learned from lower case and keeps capitals
            sentences = [sentence.lower() for sentence in sentences]
        encoded = self.tokenizer(
            sentences,
            # SigLIP reads its last position, and was trained with every sentence filled up to the same length.
            padding="max_length" if self.family == "siglip" else True,
            truncation=True,
            max_length=limit,
            return_tensors="pt",
        )
        batch = {key: value for key, value in encoded.items() if key in ("input_ids", "attention_mask")}
        if batch["input_ids"].shape[1] == limit:
            self.warn_of_cut(max(len(ids) for ids in self.tokenizer(sentences)["input_ids"]), limit)
        return batch

    def text_features(self, batch: dict[str, Tensor]) -> Tensor:
        return self.model.get_text_features(**batch).pooler_output

    def word_features(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        present = batch.get("attention_mask", batch["input_ids"] != self.tokenizer.pad_token_id)
        return self.model.text_model(**batch).last_hidden_state, present.bool()


class VisionOnly(Backbone):
    """DINO: the embedding of a picture is its class token, whose patches follow after the registers."""

    def __init__(self, family: str, config: dict, model):
        super().__init__()
        self.family, self.architecture = family, _architecture(config)
        self.model = model
        self._first_patch = 1 + getattr(model.config, "num_register_tokens", 0)

    def image_features(self, pixels: Tensor, patches: bool) -> tuple[Tensor, Tensor | None]:
        output = self.model(pixel_values=pixels)
        return output.pooler_output, output.last_hidden_state[:, self._first_patch :] if patches else None


def load_backbone(source: str, name: str) -> tuple[Backbone, Preprocessing]:
    """The model and preprocessing of a hub id or folder `source`, in float32 on the CPU; `name` is for messages."""
    transformers = _transformers()
    with _quiet(local=Path(source).is_dir()):
        return _load(transformers, source, name)


def _load(transformers, source: str, name: str) -> tuple[Backbone, Preprocessing]:
    config = _config(source, name)
    family = config.get("model_type")
    if family not in TEXT_CLASSES | VISION_CLASSES:
        raise EncoderError(_unknown_family(name, family))
    processor = _read(transformers.AutoImageProcessor, source, name, "image processor (preprocessor_config.json)")
    try:
        preprocessing = from_hugging_face(processor)
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise EncoderError(f"the preprocessing of {name} can't be used: {_first_line(error)}") from error
    model = _model(getattr(transformers, (TEXT_CLASSES | VISION_CLASSES)[family]), source, name)
    if family in VISION_CLASSES:
        return VisionOnly(family, config, model), preprocessing
    tokenizer = _read(transformers.AutoTokenizer, source, name, "tokenizer (tokenizer.json)")
    backbone = TextAndVision(family, config, model, tokenizer)
    _check_tokenizer(backbone, name)
    return backbone, preprocessing


@contextmanager
def _quiet(local: bool):
    """transformers warns of its own classes' defaults, and of missing weights, which are errors here. Where `local`, it
    draws no bar either: for what loads in a moment; a download keeps its own."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if local:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _transformers():
    try:
        import transformers
    except ImportError as error:
        raise EncoderError(
            "pretrained encoders need the package transformers: pip install transformers, or vision_language=off"
        ) from error
    return transformers


def _config(source: str, name: str) -> dict:
    """The contents of config.json."""
    from transformers.utils import cached_file

    try:
        path = cached_file(source, "config.json")
    except Exception as error:  # of the system, of transformers, of the hub's client or of what it sends by
        raise EncoderError(_unreachable(name, error)) from error
    if path is None:
        raise EncoderError(
            f"{name} has no config.json: it is no checkpoint in the Hugging Face format. One of open_clip's is "
            f"vision_language.name=open_clip:hf-hub:{name}"
        )
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
        config.get("model_type")
    except (ValueError, AttributeError) as error:
        raise EncoderError(f"{path} is damaged ({error}): fetch {name} again") from error
    return config


def _read(kind, source: str, name: str, what: str):
    """An image processor or tokenizer by its Auto class."""
    try:
        return kind.from_pretrained(source)
    except Exception as error:  # each class has its own ways to fail: none of them may end in a default
        hint = ""
        if what.startswith("tokenizer") and importlib.util.find_spec("sentencepiece") is None:
            hint = " (if it is a SigLIP of the first kind: pip install sentencepiece protobuf)"
        raise EncoderError(
            f"the {what} of {name} can't be loaded: {_first_line(error)}. {_mend(name)}{hint}"
        ) from error


def _model(kind, source: str, name: str):
    """The model with every weight from the checkpoint: transformers only warns of those that it has to invent."""
    try:
        model, found = kind.from_pretrained(source, dtype=torch.float32, output_loading_info=True)
    except Exception as error:
        raise EncoderError(f"the weights of {name} can't be loaded: {_first_line(error)}. {_mend(name)}") from error
    wrong = [f"{key} is missing" for key in sorted(found["missing_keys"])]
    wrong += [f"{key[0] if isinstance(key, tuple) else key} has another shape" for key in found["mismatched_keys"]]
    if wrong:
        raise EncoderError(
            f"the weights of {name} don't fill a {kind.__name__}: {'; '.join(wrong[:5])}"
            f"{f' and {len(wrong) - 5} more' if len(wrong) > 5 else ''}. {_mend(name)}"
        )
    return model


def _check_tokenizer(backbone: TextAndVision, name: str) -> None:
    """Without its files a tokenizer is made that knows no words, and says nothing."""
    ids = [tuple(row) for row in backbone.tokenize(list(PROBES))["input_ids"].tolist()]
    size = backbone.model.config.text_config.vocab_size
    if len(set(ids)) < len(ids):
        raise EncoderError(f"the tokenizer of {name} can't tell {PROBES[0]!r} from {PROBES[1]!r}. {_mend(name)}")
    if (highest := max(max(row) for row in ids)) >= size:
        raise EncoderError(f"the tokenizer of {name} gives token {highest}, and its model knows {size}. {_mend(name)}")


def _unknown_family(name: str, family: str | None) -> str:
    known = ", ".join(TEXT_CLASSES | VISION_CLASSES)
    if family == "siglip2":
        return (
            f"{name} is a NaFlex SigLIP 2, which takes patches of pictures of any shape: use a checkpoint of fixed "
            "size, such as vision_language.name=google/siglip2-base-patch16-224"
        )
    return f"{name} is of type {family!r}, and encoders of the types {known} are known. {WITH_TEXT}"


def _unreachable(name: str, error: Exception) -> str:
    """What is wrong with a hub id, from what the hub's client said."""
    from huggingface_hub import errors

    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    local = f"or download it where there is a network (hf download {name} --local-dir <folder>) and set "
    offline = f"{local}vision_language.name=<folder>; vision_language=embedded needs no network"
    if any(isinstance(link, errors.GatedRepoError) for link in chain):
        return f"{name} is behind a licence: accept it on its page and log in with hf auth login, {offline}"
    if any(isinstance(link, errors.RepositoryNotFoundError | errors.HFValidationError) for link in chain):
        return f"the hub has no {name!r}: check the id, which is <owner>/<model>; a folder needs a path that exists"
    return (
        f"{name} is not on this computer and the hub can't be reached ({_first_line(error)}): connect, unset "
        f"HF_HUB_OFFLINE if it is set, {offline}"
    )


def _mend(name: str) -> str:
    return f"Fetch {name} again, whole, or make it again"


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"


def _architecture(config: dict) -> dict:
    """config.json without bookkeeping."""
    return {
        key: _architecture(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key not in BOOKKEEPING
    }
