"""Where an episode's numbers lie: its interface as tables of fixed-size rows, and an episode as checked rows."""

from __future__ import annotations

import re

import numpy as np

from worldmodel.interface import Interface

VALUES = "values"  # the table of all float columns; every other table is a camera's frames
ROUNDING = 1e-6  # an action this far outside [-1, 1] is float32 rounding and is clipped; anything further is a mistake


class Layout:
    """The tables of a store: one row per observation, the same row number in each.

    Every camera is a table of uint8 `[rows, H, W, 3]`; `state`, `privileged`, `action` and `reward` are columns of one
    float32 table `values` `[rows, V]`, so that a window is one contiguous slice of each file. Row t of an episode holds
    observation t and the action and reward that follow it; the last row's action and reward are zeros.

    Attributes:
        shapes: table name to the shape of a row.
        dtypes: table name to the little-endian dtype of its entries.
        columns: float key to its slice of a `values` row.
    """

    def __init__(self, interface: Interface):
        for key in interface.cameras:
            if not re.fullmatch(r"[A-Za-z0-9_.\-]+", key) or key == VALUES:
                raise ValueError(f"camera key {key!r} can't name a file: use letters, digits, '_', '-' and '.'")
        self.interface = interface
        widths = {
            "state": interface.state_dim,
            "privileged": interface.privileged_dim,
            "action": interface.action_dim,
            "reward": 1,
        }
        self.columns: dict[str, slice] = {}
        end = 0
        for key, width in widths.items():
            if width:
                self.columns[key] = slice(end, end + width)
                end += width
        self.shapes: dict[str, tuple[int, ...]] = {**interface.cameras, VALUES: (end,)}
        self.dtypes = {table: np.dtype("<f4" if table == VALUES else "u1") for table in self.shapes}

    def row_bytes(self, table: str) -> int:
        """Bytes of one row of `table`."""
        return int(np.prod(self.shapes[table], dtype=np.int64)) * self.dtypes[table].itemsize

    def bytes_per_row(self) -> int:
        """Bytes of one observation in all tables together."""
        return sum(self.row_bytes(table) for table in self.shapes)

    def rows(self, episode: dict) -> dict[str, np.ndarray]:
        """Check an episode and lay it out as rows: table to contiguous array `[T+1, ...]`.

        Raises ValueError or TypeError that names the key, what is wrong and, where there is one, the first step."""
        interface = self.interface
        shapes = {
            **interface.cameras,
            "state": (interface.state_dim,),
            "privileged": (interface.privileged_dim,),
            "action": (interface.action_dim,),
            "reward": (),
        }
        keys = [*interface.cameras, *self.columns]
        expected = {*keys, "terminated", "truncated", "info"}
        if missing := sorted(expected - {"info"} - set(episode)):
            raise ValueError(f"episode lacks {missing}; this store keeps {sorted(expected)}")
        if unknown := sorted(set(episode) - expected):
            raise ValueError(f"episode has unknown keys {unknown}; this store keeps {sorted(expected)}")
        for key in ("terminated", "truncated"):
            if not isinstance(episode[key], (bool, np.bool_)):
                raise TypeError(f"episode key {key!r} must be one bool, got {type(episode[key]).__name__}")
        steps = len(np.asarray(episode["action"]))
        if steps < 1:
            raise ValueError("an episode needs at least one action")
        values = np.zeros((steps + 1, self.shapes[VALUES][0]), self.dtypes[VALUES])
        rows: dict[str, np.ndarray] = {}
        for key in keys:
            array = np.asarray(episode[key])
            length = steps if key in ("action", "reward") else steps + 1
            if array.shape != (length, *shapes[key]):
                raise ValueError(
                    f"episode key {key!r} has shape {array.shape}, expected {(length, *shapes[key])} "
                    f"({steps} actions, so {steps + 1} observations)"
                )
            if key in interface.cameras:
                if array.dtype != np.uint8:
                    raise TypeError(f"episode key {key!r} has dtype {array.dtype}; pictures are uint8, 0 to 255")
                rows[key] = np.ascontiguousarray(array)
                continue
            if array.dtype.kind != "f":
                raise TypeError(f"episode key {key!r} has dtype {array.dtype}; it must be float32")
            with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf, and is reported as such below
                array = array.astype(np.float32, copy=False)
            finite = np.isfinite(array.reshape(length, -1)).all(axis=1)
            if not finite.all():
                raise ValueError(
                    f"episode key {key!r} has a NaN or infinity first at step {int(np.argmin(finite))} of {length}"
                )
            if key == "action":
                array = self._actions(array)
            values[:length, self.columns[key]] = array.reshape(length, -1)
        rows[VALUES] = values
        return rows

    def arrays(self, rows: dict[str, np.ndarray], start: int, stop: int) -> dict[str, np.ndarray]:
        """The way back: copies of actions and rewards `start:stop` of an episode's rows and of the observations around
        them, by key."""
        result = {key: rows[key][start : stop + 1].copy() for key in self.interface.cameras}
        for key, columns in self.columns.items():
            end = stop if key in ("action", "reward") else stop + 1
            result[key] = rows[VALUES][start:end, columns].copy()
        result["reward"] = result["reward"][:, 0]
        return result

    def _actions(self, action: np.ndarray) -> np.ndarray:
        outside = np.abs(action).max(axis=1) > 1 + ROUNDING
        if outside.any():
            step = int(np.argmax(outside))
            raise ValueError(
                f"episode key 'action' leaves [-1, 1] first at step {step}: {action[step].tolist()}; "
                "the env adapter maps bounds, so record the action the policy gave it"
            )
        if self.interface.discrete:
            hot = (action == 1).sum(axis=1) == 1
            hot &= (action != 0).sum(axis=1) == 1
            if not hot.all():
                step = int(np.argmin(hot))
                raise ValueError(
                    f"episode key 'action' is not one-hot first at step {step}: {action[step].tolist()}; "
                    "this env is discrete"
                )
        return np.clip(action, -1, 1)
