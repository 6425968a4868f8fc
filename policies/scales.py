"""The units in which a run's models see the world."""

from __future__ import annotations

from worldmodel.data import EpisodeStore, WindowSampler
from worldmodel.interface import SEMANTIC

FRAMES = 4096  # drawn to take statistics of


def fix_scales(store: EpisodeStore, models, behavior, seed: int) -> None:
    """Set the units of rewards, states and semantic tokens of world models and behaviour, once, from the data that
    training starts with."""
    privileged = store.privileged_stats() if store.interface.privileged_dim else None
    state = semantic = None
    if store.interface.state_dim or store.features is not None:
        frames = WindowSampler(store, 1, FRAMES, seed).sample()
        state, semantic = (
            (frames[key][:, 0].mean(0), frames[key][:, 0].std(0)) if key in frames else None
            for key in ("state", SEMANTIC)
        )
    for model in models:
        model.set_scales(store.reward_std(), privileged, state, semantic)
    behavior.set_reward_scale(float(models[-1].transition.reward_scale))
