"""Batches of captioned pictures, from a pool that is drawn once."""

from __future__ import annotations

import numpy as np

from envs.captions.corpus import Corpus
from envs.captions.speaking import possible_claims, say, true_claims
from envs.captions.truth import degrees


class CaptionPool:
    """Pictures of `Corpus`, drawn once; the sentences about them are made anew for every batch.

    Args:
        pictures: how many.
        size: pixels of a side.
        seed: of the pictures.
        on_picture: called after each.
    """

    def __init__(self, pictures: int, size: int = 64, seed: int = 0, on_picture=None):
        corpus = Corpus(size)
        try:
            self.pictures, self._tables = corpus.draw(pictures, seed, on_picture=on_picture)
        finally:
            corpus.close()

    def draw(self, count: int, seed: int | list[int]) -> tuple[np.ndarray, list[str], np.ndarray, np.ndarray]:
        """Rows of `pictures` `[count]`, 2 x count sentences (the first half true of the picture of their row, the second
        about it, true or not), how true each is of each picture, float32 `[count, 2 count]`, and whether that is known,
        bool."""
        rng = np.random.default_rng(seed)
        rows = rng.integers(len(self.pictures), size=count)
        claims = [make(self._tables, row, rng) for make in (true_claims, possible_claims) for row in rows]
        true, known = degrees(claims, self._tables.of(rows))
        return rows, [say(claim, rng) for claim in claims], true.astype(np.float32), known
