"""Recoloured pictures: hues turn and fade, and forms stay."""

from __future__ import annotations

import numpy as np

from envs.captions.recolouring import recolour
from envs.tabletop.vocabulary import COLOURS


def test_hues_turn_and_forms_stay():
    rng = np.random.default_rng(0)
    pictures = np.zeros((50, 8, 8, 3), np.uint8)
    pictures[:, :, 4:] = 255 * np.array(COLOURS["red"])  # a red half, a black half
    changed = recolour(pictures, rng)
    assert changed.shape == pictures.shape and changed.dtype == np.uint8 and not pictures[:, :, :4].any()
    assert not changed[:, :, :4].any() and (changed[:, :, 4:] == changed[:, :1, 4:5]).all()
    assert len(np.unique(changed[:, 0, 4], axis=0)) > 45 and changed[:, 0, 4].max(1).min() > 30
    greyness = np.ptp(changed[:, 0, 4].astype(int), axis=1)
    assert greyness.min() < 30 and greyness.max() > 100
    assert np.array_equal(recolour(pictures, np.random.default_rng(0)), changed)
