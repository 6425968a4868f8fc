"""Pictures in colours that have no name, in which forms are learned apart from colours."""

from __future__ import annotations

import numpy as np

_GREY = np.array([0.299, 0.587, 0.114])
_LIGHTER = (0.8, 1.2)  # from and to, times as light


def recolour(pictures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn the hues of each picture, uint8 `[N, H, W, 3]`, by any angle, and take some or all of the colour out of it."""
    count = len(pictures)
    angle, saturation = rng.uniform(0, 2 * np.pi, count), rng.uniform(0, 1, count)
    axis = np.full(3, 3**-0.5)
    across = np.cross(np.eye(3), axis)
    turned = (
        np.cos(angle)[:, None, None] * np.eye(3)
        + np.sin(angle)[:, None, None] * across
        + (1 - np.cos(angle))[:, None, None] * np.outer(axis, axis)
    )
    grey = np.tile(_GREY, (3, 1))
    mixed = saturation[:, None, None] * turned + (1 - saturation)[:, None, None] * grey
    mixed = (mixed * rng.uniform(*_LIGHTER, count)[:, None, None]).astype(np.float32)
    flat = pictures.reshape(count, -1, 3).astype(np.float32) @ mixed.swapaxes(1, 2)
    return flat.clip(0, 255).round().astype(np.uint8).reshape(pictures.shape)
