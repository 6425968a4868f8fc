"""One writer per store: a lock that the system releases when its process ends, however it ends."""

from __future__ import annotations

import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

FAR_BYTE = 1 << 20  # Windows locks bytes against reading too: lock one far beyond the process id


class StoreLocked(RuntimeError):
    """Another process (or another object in this one) is writing to the store."""


class WriterLock:
    """Holds `path` locked until `close()` or the end of the process; raises StoreLocked naming the holder."""

    def __init__(self, path: Path):
        self._file = open(path, "a+b", buffering=0)  # noqa: SIM115 (held open, or the lock goes)
        try:
            _lock(self._file)
        except OSError as error:
            holder = _holder(path)
            self._file.close()
            raise StoreLocked(
                f"{path.parent} is being written by process {holder}: wait until it ends, stop it, "
                "or open the store for reading with writable=False"
            ) from error
        self._file.truncate(0)
        self._file.write(str(os.getpid()).encode())

    def close(self) -> None:
        """Let another writer in."""
        self._file.close()


def is_held(path: Path) -> bool:
    """Whether a writer is at work. Only asked when a store ends in unindexed bytes: an append under way, or a crash."""
    try:
        with open(path, "rb") as file:
            _lock(file, shared=True)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _lock(file, shared: bool = False) -> None:
    if fcntl is not None:
        fcntl.flock(file.fileno(), (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    else:
        file.seek(FAR_BYTE)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        file.seek(0)


def _holder(path: Path) -> str:
    try:
        return path.read_text() or "unknown"
    except OSError:
        return "unknown"
