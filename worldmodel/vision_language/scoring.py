"""How well pictures and sentences find each other."""

from __future__ import annotations

import numpy as np


def retrieved(
    scores: np.ndarray, true: np.ndarray, known: np.ndarray, choices: int, rng: np.random.Generator
) -> np.ndarray:
    """For each picture, whether its own sentence scores highest of `choices`: it and others drawn from those that are
    known to be false of the picture.

    Args:
        scores: `[N, N]`, of picture by sentence; sentence i was made for picture i.
        true, known: bool `[N, N]`.

    Returns:
        bool `[N]`.

    Raises:
        ValueError: a picture has fewer false sentences than that.
    """
    hits = np.zeros(len(scores), bool)
    for picture in range(len(scores)):
        false = np.flatnonzero(known[picture] & ~true[picture])
        if len(false) < choices - 1:
            raise ValueError(f"picture {picture} has {len(false)} sentences that are false of it, not {choices - 1}")
        others = rng.choice(false, choices - 1, replace=False)
        hits[picture] = scores[picture, picture] > scores[picture, others].max()
    return hits


def area_under_curve(scores: np.ndarray, true: np.ndarray) -> float:
    """How often a true pair scores higher than a false one (the area under the ROC curve; ties count half).

    Args:
        scores, true: `[N]`, float and bool, of pairs of a picture and a sentence.
    """
    higher = scores[true][:, None] - scores[~true][None]
    return float(((higher > 0) + 0.5 * (higher == 0)).mean())
