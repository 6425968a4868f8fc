"""Any open_clip model, by its name and the tag or file of its weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from worldmodel.vision_language.encoder import Backbone, EncoderError
from worldmodel.vision_language.preprocessing import Preprocessing, from_open_clip

SCHEMES = ("hf-hub:", "local-dir:")


class OpenClip(Backbone):
    """A CLIP, SigLIP or CoCa of open_clip."""

    has_text = True

    def __init__(self, model, tokenizer, architecture: dict):
        super().__init__()
        self.family, self.architecture = "open_clip", architecture
        self.model = model
        self.tokenizer = tokenizer
        self.logit_scale = model.logit_scale.exp().item()
        bias = getattr(model, "logit_bias", None)
        self.logit_bias = None if bias is None else bias.item()

    def image_features(self, pixels: Tensor, patches: bool) -> tuple[Tensor, Tensor | None]:
        pooled = self.model.encode_image(pixels)
        return pooled, self._patches(pixels, pooled.shape[-1]) if patches else None

    def _patches(self, pixels: Tensor, dim: int) -> Tensor:
        visual = self.model.visual
        try:
            features = visual.forward_intermediates(
                pixels, indices=1, normalize_intermediates=True, intermediates_only=True, output_fmt="NLC"
            )["image_intermediates"][-1]
        except (AttributeError, AssertionError, NotImplementedError) as error:
            raise EncoderError(_no_patches("gives no features of its patches")) from error
        projection = getattr(visual, "proj", None)
        if features.shape[-1] != dim and torch.is_tensor(projection):
            features = features @ projection
        if features.shape[-1] != dim:
            raise EncoderError(_no_patches(f"has patch features of {features.shape[-1]} numbers, embeddings of {dim}"))
        return features

    def tokenize(self, sentences: list[str]) -> dict[str, Tensor]:
        return {"input_ids": self.tokenizer(sentences)}

    def text_features(self, batch: dict[str, Tensor]) -> Tensor:
        return self.model.encode_text(batch["input_ids"])


def load_backbone(which: str, name: str) -> tuple[Backbone, Preprocessing]:
    """The model and preprocessing of `<model>/<tag or file>`, `hf-hub:<id>` or `local-dir:<folder>`, in float32 on the
    CPU; `name` is for messages."""
    try:
        import open_clip
    except ImportError as error:
        raise EncoderError(f"{name} needs the package open_clip: pip install 'worldmodel[open_clip]'") from error

    model_name, tag = (which, None) if which.startswith(SCHEMES) else (which.partition("/")[0], which.partition("/")[2])
    if tag is not None:
        _check_names(open_clip, model_name, tag, name)
    elif which.startswith("local-dir:"):
        _check_folder(Path(which.removeprefix("local-dir:")), name)
    try:
        # weights_only: what a file of pickled weights might do on loading stays undone
        model = open_clip.create_model(
            model_name, tag, device="cpu", precision="fp32", require_pretrained=True, weights_only=True
        )
        tokenizer = open_clip.get_tokenizer(model_name)
        preprocessing = from_open_clip(model.visual.preprocess_cfg)
    except Exception as error:  # open_clip and what it loads with raise their own, of many kinds
        reason = " ".join(str(error).split())[:300]
        raise EncoderError(
            f"{name} can't be loaded ({type(error).__name__}: {reason}): fetch its weights again; without a network "
            "name a file, as in open_clip:<model>/<file>, or use vision_language=embedded"
        ) from error
    return OpenClip(model, tokenizer, _architecture(open_clip, which, model_name)), preprocessing


def _check_names(open_clip, model: str, tag: str, name: str) -> None:
    """Raise EncoderError for an unknown model or tag; open_clip would start with random weights without a tag."""
    models = open_clip.list_models()
    if model not in models:
        near = [other for other in models if other.lower().startswith(model.lower()[:6])][:8] or models[:8]
        raise EncoderError(
            f"open_clip has no model {model!r} (in {name}); it has {', '.join(near)} and {len(models)} in all: "
            "open_clip.list_models()"
        )
    tags = open_clip.list_pretrained_tags_by_model(model)
    if tag not in tags and not Path(tag).is_file():
        raise EncoderError(
            f"{name} names no weights: {tag!r} is neither a file nor one of open_clip's for {model}, which are "
            f"{', '.join(tags) or 'none'}. Write open_clip:{model}/<one of these or a file>"
        )


def _check_folder(folder: Path, name: str) -> None:
    if not (folder / "open_clip_config.json").is_file():
        raise EncoderError(f"{name} names no folder of open_clip's: {folder} has no open_clip_config.json")


def _architecture(open_clip, which: str, model_name: str) -> dict:
    """The settings by which open_clip builds the model."""
    if which.startswith("local-dir:"):
        return json.loads((Path(which.removeprefix("local-dir:")) / "open_clip_config.json").read_text())["model_cfg"]
    return open_clip.get_model_config(model_name) or {"model": model_name}


def _no_patches(reason: str) -> str:
    return f"this open_clip model {reason}: set vision_language.patch_tokens=0"
