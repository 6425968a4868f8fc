"""What a run will take is known before it starts."""

import errno

import numpy as np
import pytest

from worldmodel.data import EpisodeStore, check_disk, footprint
from worldmodel.interface import Interface

INTERFACE = Interface(cameras={"image": (16, 16, 3)}, state_dim=3, action_dim=2, privileged_dim=4)


def test_the_estimate_is_what_the_disk_takes(tmp_path):
    steps, episodes = 50, 20
    with EpisodeStore.create(tmp_path / "data", INTERFACE) as store:
        for seed in range(episodes):
            store.append(
                {
                    "image": np.zeros((steps + 1, 16, 16, 3), np.uint8),
                    "state": np.zeros((steps + 1, 3), np.float32),
                    "privileged": np.zeros((steps + 1, 4), np.float32),
                    "action": np.zeros((steps, 2), np.float32),
                    "reward": np.zeros(steps, np.float32),
                    "terminated": False,
                    "truncated": True,
                    "info": {"seed": seed, "policy": "random", "success": False, "env_steps": 50, "return": 1.5},
                }
            )
        frames = store.frames
    written = sum(path.stat().st_size for path in (tmp_path / "data").rglob("*") if path.is_file())
    estimate = footprint(INTERFACE, steps * episodes, episode_length=steps)
    assert estimate["frames"] == frames
    assert written <= estimate["disk_bytes"] <= 1.1 * written


def test_a_million_frames_need_little_memory_and_11_gigabytes_of_disk():
    estimate = footprint(Interface(cameras={"image": (64, 64, 3)}), 1_000_000, batch_size=18, window=14)
    assert 12.3e9 < estimate["disk_bytes"] < 12.7e9 and estimate["cache_bytes"] <= estimate["disk_bytes"]
    assert estimate["ram_bytes"] < 30e6


def test_a_disk_that_is_too_small_is_refused_with_the_key_to_change(tmp_path):
    assert check_disk(tmp_path / "not" / "yet" / "there", 1) > 1
    with pytest.raises(OSError, match=r"needs 1000000\.00 GB and its disk has .* free: set run=<") as raised:
        check_disk(tmp_path, 10**15)
    assert raised.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match="data=<elsewhere>"):
        check_disk(tmp_path, 10**15, remedy="data=<elsewhere>")
