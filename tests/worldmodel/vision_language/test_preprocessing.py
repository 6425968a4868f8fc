"""What an encoder is shown is what its library would show it."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image

from worldmodel.vision_language.preprocessing import (
    Preprocessing,
    from_hugging_face,
    from_open_clip,
    resize_levels,
)

SHAPES = [(64, 64), (48, 80), (97, 64), (300, 241), (224, 224)]
EXACT, BYTES = 1e-3, 2.01  # levels of 255


def pictures(shape):
    return np.random.default_rng(0).integers(0, 256, (2, *shape, 3), dtype=np.uint8)


def difference(preprocessing: Preprocessing, images: np.ndarray, wanted: torch.Tensor) -> tuple[float, float]:
    """Largest and mean difference in levels of 255."""
    got = preprocessing(torch.from_numpy(images))
    assert got.dtype == torch.float32 and got.shape == wanted.shape and got.shape[-2:] == preprocessing.size
    levels = ((got - wanted) * torch.tensor(preprocessing.std).view(3, 1, 1) * 255).abs()
    return levels.max().item(), levels.mean().item()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("CLIPImageProcessor", {}, EXACT),
        ("CLIPImageProcessorPil", {}, BYTES),
        ("SiglipImageProcessor", {}, EXACT),
        ("SiglipImageProcessor", {"resample": 2, "size": {"height": 96, "width": 128}}, EXACT),
        ("BitImageProcessor", {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}, EXACT),
        ("BitImageProcessor", {"do_resize": False, "crop_size": {"height": 90, "width": 71}}, EXACT),
        ("SiglipImageProcessor", {"do_rescale": False}, EXACT * 255),
        ("SiglipImageProcessor", {"do_normalize": False}, EXACT),
        ("DINOv3ViTImageProcessor", {}, EXACT),
    ],
)
def test_pictures_are_those_of_hugging_faces_processor(kind, options, tolerance, shape):
    import transformers

    processor = getattr(transformers, kind)(**options)
    images = pictures(shape)
    wanted = processor(images=list(images), return_tensors="pt")["pixel_values"]
    largest, mean = difference(from_hugging_face(processor), images, wanted)
    assert largest <= tolerance and mean <= tolerance / 50


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_pictures_are_those_of_open_clips_transform(mode, interpolation, shape):
    pytest.importorskip("open_clip")
    from open_clip.transform import PreprocessCfg, image_transform_v2

    config = PreprocessCfg(size=95, resize_mode=mode, interpolation=interpolation, fill_color=9)
    transform = image_transform_v2(config, is_train=False)
    images = pictures(shape)
    wanted = torch.stack([transform(Image.fromarray(image)) for image in images])
    largest, mean = difference(from_open_clip(asdict(config)), images, wanted)
    mixed = mode == "squash" and min(shape) < 95 < max(shape)  # Pillow has another order of passes then
    assert (largest <= BYTES or mixed) and mean <= (1.0 if mixed else 0.1)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("shape", SHAPES)
def test_devices_without_byte_arithmetic_resize_alike(shape, interpolation):
    images = torch.from_numpy(pictures(shape)).permute(0, 3, 1, 2)
    bytes_ = torch.nn.functional.interpolate(images, (112, 120), mode=interpolation, antialias=True)
    floats = resize_levels(images.float(), (112, 120), interpolation)
    assert (bytes_.float() - floats).abs().max() <= BYTES


def test_it_travels_as_plain_data():
    from transformers import CLIPImageProcessor

    preprocessing = from_hugging_face(CLIPImageProcessor(resample=2))
    assert Preprocessing(**json.loads(json.dumps(preprocessing.to_dict()))) == preprocessing


def test_what_has_no_equal_here_is_refused():
    from transformers import CLIPImageProcessor

    with pytest.raises(ValueError, match="longest_edge"):
        from_hugging_face(CLIPImageProcessor(size={"shortest_edge": 32, "longest_edge": 64}))
    with pytest.raises(ValueError, match="filter 1"):
        from_hugging_face(CLIPImageProcessor(resample=1))
    with pytest.raises(ValueError, match="need a crop"):
        from_hugging_face(CLIPImageProcessor(do_center_crop=False))
    with pytest.raises(ValueError, match="isn't square"):
        from_open_clip({"size": (64, 96), "mean": [0.5] * 3, "std": [0.5] * 3})
