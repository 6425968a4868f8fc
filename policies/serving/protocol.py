"""What client and server say to each other: msgpack messages, arrays as dtype, shape and bytes, and the check of both.

Every message is a dict with a `type`, and every request gets one answer, in order:

| request | answer |
|---|---|
| `hello` | `hello`: `protocol`, `version`, `policy`, `checkpoint`, `interface`, `observation` (key to dtype and shape of a row) |
| `reset`: `observation`, `mask` (bool `[B]` or nil: all rows) | `reset` |
| `act`: `observation` | `action`: `action` float32 `[B, A]` |
| anything else, or wrong in any way | `error`: `message`; the connection goes on |

An array is `{"dtype": "uint8", "shape": [2, 64, 64, 3], "data": <bytes in C order, little endian>}`. Of an observation
every key of the interface is needed; `instruction`, a list of B texts, and the goal's pictures may come along. Nothing in
here runs what it reads: there is no pickle, and dtypes are those of `DTYPES`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from policies.policy import Observation
from worldmodel.interface import Interface

PROTOCOL = 1  # counts up where old clients would not understand
PORT = 8765
MAX_MB = 64  # of one message, in millions of bytes
DTYPES = ("uint8", "float32", "bool")
INSTALL = 'pip install "worldmodel[serve]"'
_ARRAY = {"dtype", "shape", "data"}
_LONGEST_TEXT = 10_000  # characters of an instruction


class ProtocolError(ValueError):
    """A message that is not understood; its text is for whoever sent it."""


def encode(message: dict[str, Any]) -> bytes:
    """A message as bytes. Arrays may stand anywhere in it; arrays of text become lists."""
    return _msgpack().packb(message, default=_plain)


def decode(data: bytes | str) -> dict[str, Any]:
    """The message in these bytes, its arrays read-only views of them.

    Raises:
        ProtocolError: no msgpack, no dict with a `type`, or an array that is not what it says.
    """
    if isinstance(data, str):
        raise ProtocolError("a text message, where binary ones of msgpack are understood")
    try:
        message = _msgpack().unpackb(data, object_hook=_arrays)
    except ProtocolError:
        raise
    except Exception as error:  # msgpack has many, none of them our bug
        raise ProtocolError(f"{len(data)} bytes that are not msgpack: {error or type(error).__name__}") from error
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise ProtocolError("a message must be a dict with a text under 'type'")
    return message


def schema(interface: Interface) -> dict[str, dict[str, Any]]:
    """What an observation holds: each key to the `dtype` and the `shape` of a row, and whether it is `needed`."""
    pictures = {
        key: {"dtype": "uint8", "shape": list(shape), "needed": True} for key, shape in interface.cameras.items()
    }
    goals = {"goal" + key.removeprefix("image"): {**picture, "needed": False} for key, picture in pictures.items()}
    state = (
        {"state": {"dtype": "float32", "shape": [interface.state_dim], "needed": True}} if interface.state_dim else {}
    )
    return {**pictures, **state, **goals, "instruction": {"dtype": "text", "shape": [], "needed": False}}


def checked(observation: Any, wanted: dict[str, dict[str, Any]]) -> Observation:
    """An observation that is as the schema says, of at least one row, all finite.

    Raises:
        ProtocolError: naming the key, what was wanted and what came.
    """
    if not isinstance(observation, dict):
        raise ProtocolError(f"'observation' must be a dict of arrays, and is {_kind(observation)}")
    needed = [key for key, row in wanted.items() if row["needed"]]
    if missing := [key for key in needed if key not in observation]:
        raise ProtocolError(f"the observation has no {', '.join(missing)}; it has {_names(observation)}")
    if unknown := [key for key in observation if key not in wanted]:
        raise ProtocolError(f"the observation has {_names(unknown)}, which is none of {', '.join(wanted)}")
    first = observation[needed[0]]
    count = len(first) if isinstance(first, np.ndarray) and first.ndim else 0
    return {key: _row_checked(key, value, wanted[key], count) for key, value in observation.items()}


def checked_mask(mask: Any, count: int) -> np.ndarray | None:
    """A reset's mask, bool [count], or None for all rows."""
    if mask is None:
        return None
    if not isinstance(mask, np.ndarray) or mask.dtype != bool or mask.shape != (count,):
        raise ProtocolError(f"'mask' must be bool [{count}], one per row of the observation, and is {_kind(mask)}")
    return mask.copy()


def _row_checked(key: str, value: Any, wanted: dict[str, Any], count: int) -> np.ndarray:
    where = f"observation {key!r}"
    if wanted["dtype"] == "text":
        right = isinstance(value, list) and len(value) == count
        if not right or not all(isinstance(text, str) and len(text) <= _LONGEST_TEXT for text in value):
            raise ProtocolError(f"{where} must be a list of {count} texts of at most {_LONGEST_TEXT:,} characters")
        return np.array(value, object)
    shape = (count, *wanted["shape"])
    if not isinstance(value, np.ndarray) or str(value.dtype) != wanted["dtype"] or value.shape != shape or not count:
        rows = ["B", *wanted["shape"]]
        raise ProtocolError(
            f"{where} must be {wanted['dtype']} [{', '.join(map(str, rows))}], the same B >= 1 in every key, and is "
            f"{_kind(value)}"
        )
    if value.dtype == np.float32 and not np.isfinite(value).all():
        raise ProtocolError(f"{where} is not finite: there is a NaN or an infinity in it")
    return value.copy()  # a policy may write into it, a message can't be written to


def _plain(value: Any) -> Any:
    """What msgpack can't write by itself."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind in "OU":
            return [str(text) for text in value.ravel()]
        if str(value.dtype) not in DTYPES:
            raise TypeError(f"an array of {value.dtype}, which is none of {', '.join(DTYPES)}")
        value = np.ascontiguousarray(value, value.dtype.newbyteorder("<"))
        return {"dtype": str(value.dtype), "shape": list(value.shape), "data": value.tobytes()}
    raise TypeError(f"{type(value).__name__} has no place in a message")


def _arrays(value: dict) -> Any:
    """An array where a dict has the keys of one; any other dict as it is."""
    if value.keys() != _ARRAY:
        return value
    dtype, shape, data = value["dtype"], value["shape"], value["data"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ProtocolError(f"an array of dtype {str(dtype)[:40]!r}, which is none of {', '.join(DTYPES)}")
    sizes_right = isinstance(shape, list) and len(shape) <= 8 and all(type(n) is int and n >= 0 for n in shape)
    if not sizes_right or not isinstance(data, bytes):
        raise ProtocolError("an array needs as 'shape' a list of at most 8 whole numbers, and as 'data' bytes")
    number = np.dtype(dtype).newbyteorder("<")
    if len(data) != (size := math.prod(shape) * number.itemsize):
        raise ProtocolError(f"an array of {dtype} {shape} takes {size:,} bytes, and there are {len(data):,}")
    array = np.frombuffer(data, number).reshape(shape)
    if dtype == "bool" and (array.view(np.uint8) > 1).any():
        raise ProtocolError("an array of bool with bytes other than 0 and 1")
    return array


def _kind(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"


def _names(keys: Any) -> str:
    shown = [str(key)[:40] for key in keys]
    return ", ".join(shown[:8]) + (" and more" if len(shown) > 8 else "") if shown else "nothing"


def _msgpack():
    """The package, which is an extra."""
    try:
        import msgpack
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"serving needs msgpack and websockets: {INSTALL}") from error
    return msgpack
