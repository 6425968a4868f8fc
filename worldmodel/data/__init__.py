"""Episodes on disk and windows of them in memory."""

from worldmodel.data.footprint import check_disk, footprint
from worldmodel.data.lock import StoreLocked
from worldmodel.data.sampler import WindowSampler
from worldmodel.data.split import held_out_episodes, train_episodes
from worldmodel.data.store import EpisodeStore, StoreDamaged

__all__ = [
    "EpisodeStore",
    "StoreDamaged",
    "StoreLocked",
    "WindowSampler",
    "check_disk",
    "footprint",
    "held_out_episodes",
    "train_episodes",
]
