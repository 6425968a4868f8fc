"""Splits any Gymnasium observation space into pictures and one state vector."""

from __future__ import annotations

from dataclasses import dataclass

import gymnasium
import numpy as np
from gymnasium import spaces


@dataclass(frozen=True)
class Leaf:
    """One plain space inside an observation space: the keys that lead to it, and the space."""

    path: tuple[str, ...]
    space: gymnasium.Space

    @property
    def name(self) -> str:
        return ".".join(self.path)

    def read(self, observation):
        """This leaf's value in an observation of the whole space."""
        for key in self.path:
            observation = observation[key]
        return observation


def split(space: gymnasium.Space) -> tuple[list[Leaf], list[Leaf]]:
    """The pictures (three-dimensional uint8 Boxes) and the vectors (anything else that flattens) of a space.

    Raises:
        TypeError: a subspace is neither (Text, Graph, Sequence, a uint8 Box that is no picture); the message names it.
    """
    pictures, vectors = [], []
    for leaf in _leaves(space, ()):
        where = f"observation {leaf.name!r}" if leaf.path else "the observation"
        if isinstance(leaf.space, spaces.Box) and leaf.space.dtype == np.uint8 and len(leaf.space.shape) == 3:
            if 3 not in (leaf.space.shape[0], leaf.space.shape[-1]) and leaf.space.shape[-1] != 1:
                raise TypeError(
                    f"{where} is a picture of shape {leaf.space.shape}; pictures are [H, W, 3], [H, W, 1] "
                    "or [3, H, W]: wrap the env with one of gymnasium.wrappers' observation wrappers"
                )
            pictures.append(leaf)
        elif isinstance(leaf.space, (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
            vectors.append(leaf)
        else:
            raise TypeError(
                f"{where} is a {type(leaf.space).__name__} space, which is neither a picture nor numbers: leave it out "
                "with gymnasium.wrappers.FilterObservation, or turn it into a Box"
            )
    return pictures, vectors


def _leaves(space: gymnasium.Space, path: tuple[str, ...]) -> list[Leaf]:
    if isinstance(space, spaces.Dict):
        return [leaf for key, inner in space.spaces.items() for leaf in _leaves(inner, (*path, key))]
    return [Leaf(path, space)]


def state_length(vectors: list[Leaf]) -> int:
    """How many numbers `state_vector` gives."""
    return sum(spaces.flatdim(leaf.space) for leaf in vectors)


def state_vector(vectors: list[Leaf], observation) -> np.ndarray:
    """All vectors, flattened (choices one-hot) and joined in the space's order: float32 [S]."""
    parts = [np.ravel(spaces.flatten(leaf.space, leaf.read(observation))) for leaf in vectors]
    return np.concatenate(parts, dtype=np.float32, casting="unsafe")


def as_picture(array: np.ndarray, size: int) -> np.ndarray:
    """Any picture ([H, W, 3], [H, W, 1] or [3, H, W], uint8) as uint8 [size, size, 3], resized by area averaging."""
    array = np.asarray(array)
    if array.shape[-1] == 1:
        array = np.repeat(array, 3, axis=-1)
    elif array.shape[-1] != 3:
        array = np.moveaxis(array, 0, -1)
    if array.shape[:2] == (size, size):
        return np.array(array, np.uint8)
    from PIL import Image  # only where something is resized

    picture = Image.fromarray(np.ascontiguousarray(array, np.uint8))
    return np.asarray(picture.resize((size, size), Image.Resampling.BOX))
