"""From a camera's picture to what a pretrained encoder was trained on, as plain data and in torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

RESIZES = ("squash", "shortest", "longest", "none")
INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers, which Hugging Face writes into its files


@dataclass(frozen=True)
class Preprocessing:
    """What is done to a picture before an encoder sees it.

    Attributes:
        resize: `squash` to `resize_to`; `shortest` or `longest`: scale that side to `resize_to[0]`; `none`.
        resize_to: height and width in pixels.
        crop: height and width cut from the middle (what is smaller is padded with `fill`); None for no cut.
        mean, std: per channel, of values in [0, 1].
        interpolation: `bicubic` or `bilinear`, always antialiased.
        rounded: the resized picture has whole levels 0 to 255, as most libraries resize bytes; DINOv3's resizes floats.
        crop_rounds_up: where an odd number of pixels is cut, open_clip rounds the corner, Hugging Face cuts it off.
        fill: level of the padding, 0 to 255.
    """

    resize: str
    resize_to: tuple[int, int]
    crop: tuple[int, int] | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    rounded: bool = True
    crop_rounds_up: bool = False
    fill: int = 0

    def __post_init__(self):
        for key in ("resize_to", "crop", "mean", "std"):  # lists where they come from JSON
            value = getattr(self, key)
            object.__setattr__(self, key, None if value is None else tuple(value))
        if self.resize not in RESIZES or self.interpolation not in INTERPOLATIONS.values():
            raise ValueError(
                f"preprocessing resizes by {self.resize!r}, {self.interpolation!r}: only {RESIZES} and "
                f"{tuple(INTERPOLATIONS.values())} are known"
            )
        if self.crop is None and self.resize != "squash":
            raise ValueError(f"pictures resized by {self.resize!r} need a crop to have one size")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the result."""
        return self.crop or self.resize_to

    def to_dict(self) -> dict:
        """Plain JSON types; `Preprocessing(**value)` reads it back."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 `[F, H, W, 3]` to float32 `[F, 3, h, w]`, on the same device; `h, w` are `size`.

        Agrees with the library's own image processor: exactly where torchvision resizes bytes on the CPU, to 1e-5 where
        it resizes floats, to 2 levels of 255 (0.02 in the mean) elsewhere. Where one side grows and the other shrinks,
        Pillow differs from torchvision, and so from this, by more at sharp edges."""
        x = images.permute(0, 3, 1, 2)
        target = self._resized(x.shape[-2], x.shape[-1])
        if target != tuple(x.shape[-2:]):
            if not self.rounded:
                x = _resize(x.float(), target, self.interpolation)
            elif x.device.type == "cpu":
                x = _resize(x, target, self.interpolation)  # bytes: twelve times as fast
            else:
                x = resize_levels(x.float(), target, self.interpolation)
        if self.crop is not None:
            x = self._cut(x)
        x = x.float()
        mean, std = (torch.tensor(values, device=x.device).view(3, 1, 1) * 255 for values in (self.mean, self.std))
        return (x - mean) / std

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after resizing; halves are rounded as the libraries do."""
        if self.resize == "none":
            return height, width
        if self.resize == "squash":
            return self.resize_to
        if self.resize == "shortest":
            short, edge = min(height, width), self.resize_to[0]
            return (edge, int(edge * width / short)) if height <= width else (int(edge * height / short), edge)
        ratio = max(height / self.resize_to[0], width / self.resize_to[1])
        return round(height / ratio), round(width / ratio)

    def _cut(self, x: Tensor) -> Tensor:
        down, right = (max(want - have, 0) for want, have in zip(self.crop, x.shape[-2:], strict=True))
        if down or right:
            sides = (right // 2, right - right // 2, down // 2, down - down // 2)
            x = F.pad(x, sides, value=self.fill)
        corner = []
        for want, have in zip(self.crop, x.shape[-2:], strict=True):
            corner.append(round((have - want) / 2) if self.crop_rounds_up else (have - want) // 2)
        (top, left), (height, width) = corner, self.crop
        return x[..., top : top + height, left : left + width]


def resize_levels(x: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    """Resize float pictures `[F, 3, H, W]` of whole levels 0 to 255 as Pillow and torch resize bytes: along the width,
    then along the height, each rounded and kept in range. At once, a bicubic's overshoot is off by up to 20 levels."""
    for target in ((x.shape[-2], size[1]), size):
        x = _resize(x, target, interpolation).round_().clamp_(0, 255)
    return x


def _resize(x: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    return F.interpolate(x, size, mode=interpolation, align_corners=False, antialias=True)


def from_hugging_face(processor) -> Preprocessing:
    """What a transformers image processor does. Raises ValueError where it does more than resize, cut and normalise."""
    size, crop = (dict(_entries(getattr(processor, key, None))) for key in ("size", "crop_size"))
    mode, to = "none", (0, 0)
    if getattr(processor, "do_resize", True):
        if size.keys() == {"height", "width"}:
            mode, to = "squash", (size["height"], size["width"])
        elif size.keys() == {"shortest_edge"}:
            mode, to = "shortest", (size["shortest_edge"], size["shortest_edge"])
        else:
            raise ValueError(f"the image processor's size {size} is neither height and width nor shortest_edge")
    cut = (crop["height"], crop["width"]) if getattr(processor, "do_center_crop", False) else None
    factor = processor.rescale_factor * 255 if getattr(processor, "do_rescale", True) else 255
    normalise = getattr(processor, "do_normalize", True)
    mean = processor.image_mean if normalise else (0, 0, 0)
    std = processor.image_std if normalise else (1, 1, 1)
    return Preprocessing(
        mode,
        to,
        cut,
        tuple(value / factor for value in mean),
        tuple(value / factor for value in std),
        INTERPOLATIONS.get(int(processor.resample), f"Pillow's filter {processor.resample}"),
        rounded=not type(processor).__name__.startswith("DINOv3"),
    )


def from_open_clip(config: dict) -> Preprocessing:
    """What open_clip does with its `preprocess_cfg`. Raises ValueError where this has no equal here."""
    size = config["size"]
    height, width = (size, size) if isinstance(size, int) else size
    mode = config.get("resize_mode") or "shortest"
    if mode == "shortest" and height != width:
        raise ValueError(f"open_clip's resize_mode 'shortest' to {height}x{width} isn't square: use 'squash'")
    return Preprocessing(
        mode,
        (height, width),
        None if mode == "squash" else (height, width),
        config["mean"],
        config["std"],
        "bilinear" if config.get("interpolation") == "bilinear" else "bicubic",
        crop_rounds_up=True,
        fill=config.get("fill_color", 0),
    )


def _entries(size) -> dict:
    """A size of transformers, a dict or its SizeDict, without what isn't set."""
    if size is None:
        return {}
    entries = size.items() if hasattr(size, "items") else vars(size).items()
    return {key: value for key, value in entries if value is not None}
