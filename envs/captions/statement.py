"""Something that can be said of a picture of a built-in task."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Statement(NamedTuple):
    """Something that is true of some pictures of one task.

    Attributes:
        task: which one, a key of `TASKS`.
        true: of the env, as its joints and its goal stand.
        seen, held_out: how it is said; the latter is never trained on.
    """

    task: str
    true: Callable[[object], bool]
    seen: tuple[str, ...]
    held_out: tuple[str, ...]
