"""How much memory and disk a run's episodes will take, known before it starts."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from worldmodel.data.layout import Layout
from worldmodel.interface import Interface

INDEX_LINE_BYTES = 400  # on disk, with an info of seed, policy, success, env_steps and return
INDEX_ENTRY_BYTES = 1900  # in memory: the table's entry and the info as a dict
MARGIN = 1.02  # file systems round up, checkpoints and videos come on top and are the caller's to count


def footprint(
    interface: Interface, steps: int, *, episode_length: int = 500, batch_size: int = 0, window: int = 0
) -> dict[str, int]:
    """Bytes that `steps` agent steps in episodes of about `episode_length` will take.

    Returns `frames` (observations), `disk_bytes`, `ram_bytes` (what must fit: the index, one episode being collected and
    one batch of `batch_size` windows of `window` actions) and `cache_bytes` (free memory that lets every window come
    from the page cache; with less, the disk is read, and nothing fails)."""
    layout = Layout(interface)
    episodes = max(-(-steps // episode_length), 1)
    frames = steps + episodes
    row = layout.bytes_per_row()
    disk = int((frames * row + episodes * INDEX_LINE_BYTES) * MARGIN)
    ram = episodes * INDEX_ENTRY_BYTES + 2 * (episode_length + 1) * row + batch_size * (window + 2) * row
    return {"frames": frames, "disk_bytes": disk, "ram_bytes": ram, "cache_bytes": frames * row}


def check_disk(
    folder: str | Path, needed_bytes: int, remedy: str = "run=<a folder on a larger disk>, or collect fewer steps"
) -> int:
    """Free bytes where `folder` is or will be. Raises OSError (ENOSPC) ending in `remedy` where they are too few."""
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed_bytes:
        raise OSError(
            errno.ENOSPC,
            f"{folder} needs {needed_bytes / 1e9:.2f} GB and its disk has {free / 1e9:.2f} GB free: set {remedy}",
        )
    return free
