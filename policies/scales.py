"""The units in which a run's models see the world."""

from __future__ import annotations

import torch

from worldmodel.blobs import BlobCache
from worldmodel.data import EpisodeStore, WindowSampler
from worldmodel.interface import BLOBS, SEMANTIC

FRAMES = 4096  # drawn to take statistics of
CLUSTERED = 512  # frames in which clusters of colours are looked for


def fix_scales(store: EpisodeStore, models, behavior, seed: int) -> None:
    """Set the units of rewards, states, semantic tokens and colour blobs of world models and behaviour, and what colours
    there are, once, from the data that training starts with."""
    privileged = store.privileged_stats() if store.interface.privileged_dim else None
    state = semantic = None
    if store.interface.state_dim or store.features is not None:
        frames = WindowSampler(store, 1, FRAMES, seed).sample()
        state, semantic = (
            (frames[key][:, 0].mean(0), frames[key][:, 0].std(0)) if key in frames else None
            for key in ("state", SEMANTIC)
        )
    blobs = None
    if models[0].blobs is not None:
        pictures = WindowSampler(store, 1, CLUSTERED, seed).sample()
        frames = {key: pictures[key][:, 0] for key in store.interface.cameras}
        models[0].blobs.fit(frames, torch.Generator().manual_seed(seed))
        for model in models[1:]:
            model.blobs.load_state_dict(models[0].blobs.state_dict())
        store.blobs = None  # of other clusters, if there were any
        see_blobs(store, models[0])
        known = WindowSampler(store, 1, FRAMES, seed).sample()[BLOBS][:, 0]
        blobs = known.mean(0), known.std(0)
    for model in models:
        model.set_scales(store.reward_std(), privileged, state, semantic, blobs)
    behavior.set_reward_scale(float(models[-1].transition.reward_scale))


def see_blobs(store: EpisodeStore, model) -> None:
    """Have samplers of the store give along where colours are, by the clusters of a model that has any, unless they do."""
    if model.blobs is not None and store.blobs is None:
        store.blobs = BlobCache(store, model.blobs.measure())


def reference_steps(began_with: int, steps: int) -> int:
    """How many of the store's oldest `steps` the frames that standardise latents are drawn from.

    Latents that move with the newest episodes leave all that reads them behind, so these are the steps that training
    `began_with`, until they are less than half of all: a few that show little of what comes later would put all of it
    far off the scale."""
    return max(began_with, steps // 2)
