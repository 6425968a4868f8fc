"""Every family of encoders gives what its own library gives, frozen, and is known by what it computes."""

import json
import math
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tiny_checkpoints import SENTENCES

from worldmodel.vision_language import EncoderError, load
from worldmodel.vision_language.hugging_face import TextAndVision

WITH_TEXT = ["clip", "siglip", "siglip2", "open_clip", "open_clip_siglip"]
VISION_ONLY = ["dinov2", "dinov2_with_registers", "dinov3", "dinov3_convnext"]


def pictures(count: int = 5, shape: tuple[int, int] = (40, 64)) -> np.ndarray:
    """Smooth pictures, as cameras give."""
    small = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(image).resize(shape[::-1])) for image in small])


@pytest.mark.parametrize("kind", ["clip", "siglip", "siglip2"])
def test_it_agrees_with_hugging_faces_own_model_and_processor(checkpoints, kind):
    from transformers import AutoModel, AutoProcessor

    folder = checkpoints(kind)
    encoder = load(folder)
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    padding = {"padding": "max_length", "max_length": 16} if kind != "clip" else {"padding": True}
    sentences = [sentence.lower() for sentence in SENTENCES] if kind == "siglip2" else SENTENCES
    inputs = processor(text=sentences, images=list(pictures()), return_tensors="pt", truncation=True, **padding)
    with torch.no_grad():
        output = model(**inputs)
    images, text = encoder.encode_images(pictures()), encoder.encode_text(SENTENCES)
    assert images.shape == (5, 1, encoder.dim) and text.shape == (4, encoder.dim)
    assert images.dtype == text.dtype == torch.float32
    torch.testing.assert_close(images[:, 0], output.image_embeds, atol=1e-6, rtol=0)
    torch.testing.assert_close(text, output.text_embeds, atol=1e-6, rtol=0)
    logits = encoder.logit_scale * images[:, 0] @ text.T + (encoder.logit_bias or 0.0)
    torch.testing.assert_close(logits, output.logits_per_image, atol=1e-4, rtol=1e-5)
    assert (encoder.logit_bias is None) == (kind == "clip")
    assert images[:, 0].std(0).max() > 1e-3 and text.std(0).max() > 1e-3  # different inputs look different


@pytest.mark.parametrize("kind", ["open_clip", "open_clip_siglip"])
def test_it_agrees_with_open_clips_own_model_and_transform(checkpoints, kind):
    import open_clip

    folder = checkpoints(kind)
    encoder = load(f"open_clip:local-dir:{folder}")
    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    with torch.no_grad():
        wanted = model.eval().encode_image(
            torch.stack([transform(Image.fromarray(image)) for image in pictures()]), normalize=True
        )
        text = model.encode_text(tokenizer(SENTENCES), normalize=True)
    # Pillow, which open_clip resizes with, and torch differ by a level here and there.
    torch.testing.assert_close(encoder.encode_images(pictures())[:, 0], wanted, atol=2e-3, rtol=0)
    torch.testing.assert_close(encoder.encode_text(SENTENCES), text, atol=1e-6, rtol=0)
    assert encoder.logit_scale == pytest.approx(model.logit_scale.exp().item())
    assert encoder.logit_bias == (-10.0 if kind == "open_clip_siglip" else None)
    assert load(folder).identity == encoder.identity


def test_an_open_clip_name_with_a_file_of_weights(checkpoints, tmp_path, monkeypatch):
    import open_clip
    from open_clip import factory
    from tiny_checkpoints import open_clip_config

    (tmp_path / "tiny.json").write_text(json.dumps(open_clip_config()))
    monkeypatch.setattr(factory, "_MODEL_CONFIG_PATHS", [*factory._MODEL_CONFIG_PATHS, tmp_path / "tiny.json"])
    monkeypatch.setattr(factory, "_MODEL_CONFIGS", dict(factory._MODEL_CONFIGS))
    open_clip.factory._rescan_model_configs()
    weights = checkpoints("open_clip") / "model.safetensors"
    encoder = load(f"open_clip:tiny/{weights}")
    torch.testing.assert_close(
        encoder.encode_images(pictures()), load(checkpoints("open_clip")).encode_images(pictures())
    )
    with pytest.raises(EncoderError, match="names no weights: 'laion2b' is neither a file nor one of open_clip's"):
        load("open_clip:tiny/laion2b")
    with pytest.raises(EncoderError, match="no model 'ViT-B-23'.*ViT-B"):
        load("open_clip:ViT-B-23/openai")


@pytest.mark.parametrize("kind", VISION_ONLY)
def test_dino_gives_its_class_token_and_no_text(checkpoints, kind):
    from transformers import AutoImageProcessor, AutoModel

    folder = checkpoints(kind)
    encoder = load(folder)
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        wanted = model(**processor(images=list(pictures()), return_tensors="pt")).last_hidden_state[:, 0]
    torch.testing.assert_close(encoder.encode_images(pictures())[:, 0], F.normalize(wanted, dim=-1), atol=1e-5, rtol=0)
    assert not encoder.has_text and encoder.logit_scale is None
    with pytest.raises(EncoderError, match=r"pictures only.*'a red cube'.*vision_language=embedded, clip or siglip2"):
        encoder.encode_text(["a red cube"])


@pytest.mark.parametrize("kind", [*WITH_TEXT, *VISION_ONLY])
def test_patch_tokens_follow_the_pictures_own(checkpoints, kind):
    one, five = load(checkpoints(kind)), load(checkpoints(kind), patch_tokens=4)
    images = pictures(2, (32, 32))
    tokens = five.encode_images(images)
    assert tokens.shape == (2, 5, one.dim) and five.tokens == 5 and one.tokens == 1
    torch.testing.assert_close(tokens[:, :1], one.encode_images(images), atol=1e-6, rtol=0)
    torch.testing.assert_close(tokens.norm(dim=-1), torch.ones(2, 5), atol=1e-5, rtol=0)
    assert one.identity != five.identity
    with pytest.raises(EncoderError, match="16 patches.*grid of 25"):
        load(checkpoints(kind), patch_tokens=25)
    with pytest.raises(EncoderError, match="patch_tokens=5 must be a square"):
        load(checkpoints(kind), patch_tokens=5)


@pytest.mark.parametrize("kind", ["clip", "siglip", "dinov3"])
def test_sixteen_cells_are_the_patches_row_by_row(checkpoints, kind):
    encoder = load(checkpoints(kind), patch_tokens=16)  # pictures of 32 x 32 have 4 x 4 patches
    images = torch.from_numpy(pictures(2, (32, 32)))
    with torch.no_grad():
        _, patches = encoder.backbone.image_features(encoder.preprocess(images), patches=True)
        output = (
            encoder.backbone.model.vision_model(encoder.preprocess(images))
            if isinstance(encoder.backbone, TextAndVision)
            else encoder.backbone.model(encoder.preprocess(images))
        )
    torch.testing.assert_close(encoder.encode_images(images)[:, 1:], F.normalize(patches, dim=-1), atol=1e-6, rtol=0)
    hidden = output.last_hidden_state[:, -16:]
    if kind == "clip":
        hidden = encoder.backbone.model.visual_projection(encoder.backbone.model.vision_model.post_layernorm(hidden))
    torch.testing.assert_close(patches, hidden, atol=1e-5, rtol=0)


def test_a_projected_class_token_is_the_pictures_embedding_in_open_clip(checkpoints):
    """So the patches are projected as the whole picture is."""
    encoder = load(checkpoints("open_clip"), patch_tokens=16)
    visual = encoder.backbone.model.visual
    pixels = encoder.preprocess(torch.from_numpy(pictures(2, (32, 32))))
    with torch.no_grad():
        found = visual.forward_intermediates(
            pixels, indices=1, normalize_intermediates=True, output_fmt="NLC", output_extra_tokens=True
        )
        prefix = found["image_intermediates_prefix"][-1][:, 0] @ visual.proj
        torch.testing.assert_close(prefix, encoder.backbone.model.encode_image(pixels), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["siglip", "open_clip", "dinov2"])
def test_it_stays_frozen_in_whatever_holds_it(checkpoints, kind):
    encoder = load(checkpoints(kind))
    holder = torch.nn.Sequential(encoder).train()
    assert not encoder.training and not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in holder.parameters())
    features = encoder.encode_images(pictures())
    weight = torch.ones(encoder.dim, requires_grad=True)
    (features * weight).sum().backward()  # usable as an input: no inference tensor
    torch.testing.assert_close(weight.grad, features.sum((0, 1)))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(encoder.encode_images(pictures()), features, atol=0, rtol=0)


def test_batches_and_kinds_of_arrays_make_no_difference(checkpoints):
    encoder, small = load(checkpoints("siglip")), load(checkpoints("siglip"), batch_size=2)
    images = pictures(5)
    images.setflags(write=False)
    whole = encoder.encode_images(images)
    torch.testing.assert_close(small.encode_images(torch.from_numpy(images.copy())), whole, atol=1e-6, rtol=0)
    torch.testing.assert_close(small.encode_text(SENTENCES), encoder.encode_text(SENTENCES), atol=1e-6, rtol=0)
    assert encoder.encode_images(images[:0]).shape == (0, 1, encoder.dim)
    assert encoder.encode_text([]).shape == (0, encoder.dim)


def test_a_narrower_arithmetic_is_the_same_encoder(checkpoints):
    wide, narrow = load(checkpoints("siglip")), load(checkpoints("siglip"), dtype=torch.bfloat16)
    assert narrow.dtype == torch.bfloat16 and narrow.encode_images(pictures()).dtype == torch.float32
    assert (narrow.encode_images(pictures()) * wide.encode_images(pictures())).sum(-1).min() > 0.99
    assert (narrow.encode_text(SENTENCES) * wide.encode_text(SENTENCES)).sum(-1).min() > 0.99
    narrow.require_same(wide.describe())


def test_wrong_inputs_are_named(checkpoints):
    encoder = load(checkpoints("clip"))
    for wrong in (pictures().astype(np.float32), pictures()[0], pictures().transpose(0, 3, 1, 2)):
        with pytest.raises(EncoderError, match=r"uint8 \[F, H, W, 3\]"):
            encoder.encode_images(wrong)
    with pytest.raises(EncoderError, match="list of sentences"):
        encoder.encode_text("a red cube")
    with pytest.raises(EncoderError, match="batch_size=0"):
        load(checkpoints("clip"), batch_size=0)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_the_end_of_a_long_sentence_is_cut_off_with_a_warning(checkpoints, kind, caplog):
    encoder = load(checkpoints(kind))
    long = " ".join(["red cube"] * 30)
    assert not caplog.records
    torch.testing.assert_close(encoder.encode_text([long]), encoder.encode_text([f"{long} and a green zone"]))
    assert sum("tokens of a sentence are read" in record.getMessage() for record in caplog.records) == 1


# Identity


@pytest.mark.parametrize("kind", [*WITH_TEXT, *VISION_ONLY])
def test_identity_is_stable_and_belongs_to_the_weights(checkpoints, kind, tmp_path):
    identity = load(checkpoints(kind)).identity
    copy = shutil.copytree(checkpoints(kind), tmp_path / "copy")
    assert load(copy).identity == identity
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-2] ^= 1  # the last bits of one number's mantissa
    weights.write_bytes(content)
    changed = load(copy)
    assert changed.identity != identity and changed.identity.split("-")[0] == identity.split("-")[0]


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("preprocessor_config.json", {"image_mean": [0.5, 0.5, 0.4]}),
        ("preprocessor_config.json", {"resample": 2}),
        ("config.json", {"text_config": {"hidden_act": "relu"}}),
        ("config.json", {"vision_config": {"num_attention_heads": 4}}),
    ],
)
def test_identity_belongs_to_preprocessing_and_architecture(checkpoints, tmp_path, file, change):
    copy = shutil.copytree(checkpoints("siglip"), tmp_path / "copy")
    for path in (copy / file, copy / "processor_config.json"):
        if path.exists():
            config = json.loads(path.read_text())
            for key, value in change.items():
                config[key] = {**config[key], **value} if isinstance(value, dict) else value
            path.write_text(json.dumps(config))
    assert load(copy).identity != load(checkpoints("siglip")).identity


def test_identity_belongs_to_the_tokenizer(checkpoints, tmp_path):
    copy = shutil.copytree(checkpoints("siglip"), tmp_path / "copy")
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["red"], vocabulary["blue"] = vocabulary["blue"], vocabulary["red"]
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert load(copy).identity != load(checkpoints("siglip")).identity


def test_a_checkpoint_says_which_encoder_it_was_trained_with(checkpoints, tmp_path):
    clip, siglip = load(checkpoints("clip")), load(checkpoints("siglip"), patch_tokens=4)
    trained = json.loads(json.dumps(siglip.describe()))
    assert trained["tokens"] == 5 and trained["dim"] == 24 and math.prod(trained["preprocessing"]["resize_to"]) == 1024
    siglip.require_same(trained)
    load(shutil.copytree(checkpoints("siglip"), tmp_path / "moved"), patch_tokens=4).require_same(trained)
    with pytest.raises(EncoderError) as error:
        clip.require_same(trained)
    for part in (trained["name"], clip.name, siglip.identity, clip.identity, "patch_tokens=4"):
        assert part in str(error.value)


def test_nothing_heavy_is_imported_before_an_encoder_is_loaded():
    program = (
        "import sys, worldmodel, worldmodel.vision_language; "
        "heavy = {'transformers', 'open_clip', 'huggingface_hub', 'torchvision'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert result.stdout.strip() == "[]"
