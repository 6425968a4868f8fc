"""A policy that asks a server."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

import numpy as np

from policies.policy import Observation
from policies.serving.protocol import INSTALL, PROTOCOL, ProtocolError, decode, encode
from worldmodel.interface import Interface

_FRAGMENT = 1 << 20  # bytes of a frame
_RETRY_S = 0.2  # between two attempts to connect
_COMPARED = ("cameras", "state_dim", "action_dim", "discrete")


class RemoteError(RuntimeError):
    """The server said no, said nothing, or went away."""


class RemotePolicy:
    """The policy that `worldmodel serve` answers with; its past lies at the server and ends with the connection.

    Args:
        url: `ws://<host>:<port>`, as the server prints it.
        interface: of the env, compared with the server's; None takes the server's.
        timeout_s: seconds that an answer may take. The first ones of a compiled planner take long.
        connect_s: seconds to wait for a server that is about to start.
        seed, agent: not used; every policy is built with the same arguments.

    Attributes:
        hello: what the server told of itself (see `policies.serving.protocol`).

    Raises:
        RemoteError: no server within `connect_s`, or one of another protocol.
        ValueError: it serves another interface; the message names what differs.
    """

    def __init__(
        self,
        url: str,
        interface: Interface | None = None,
        timeout_s: float = 60.0,
        connect_s: float = 30.0,
        seed: int = 0,
        agent: object = None,
    ):
        if url is None or not str(url).startswith(("ws://", "wss://")):
            raise ValueError(f"policy.url={url}: give the address that the server prints, as in ws://127.0.0.1:8765")
        self.url, self.timeout_s, self.connect_s = url, timeout_s, connect_s
        self._connection, self._closing = None, ExitStack()
        self.hello = self._connect()
        self.interface = Interface(**self.hello["interface"])
        if interface is not None:
            _require_same(self.interface, interface, url)

    def reset(self, observation: Observation, mask: np.ndarray | None = None) -> None:
        """Forget the past of the rows in `mask` (all when None). A reset of all rows connects again where the connection
        was lost.

        Raises:
            RemoteError: the server's own words, or no answer in time.
        """
        if self._connection is None and (mask is None or bool(np.all(mask))):
            self.hello = self._connect()
        mask = None if mask is None else np.asarray(mask, bool)
        self._ask({"type": "reset", "observation": self._known(observation), "mask": mask}, "reset")

    def act(self, observation: Observation) -> np.ndarray:
        """Actions float32 `[B, A]`. Raises as `reset`."""
        return np.array(self._ask({"type": "act", "observation": self._known(observation)}, "action")["action"])

    def close(self) -> None:
        """Say goodbye; the server forgets this client."""
        self._connection = None
        self._closing.close()

    def __enter__(self) -> RemotePolicy:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _known(self, observation: Observation) -> Observation:
        return {key: value for key, value in observation.items() if key in self.hello["observation"]}

    def _connect(self) -> dict[str, Any]:
        """The server's hello, on a new connection."""
        try:
            from websockets.exceptions import InvalidHandshake
            from websockets.sync.client import connect
        except ImportError as error:
            raise ModuleNotFoundError(f"policy=remote needs msgpack and websockets>=16: {INSTALL}") from error
        until = time.monotonic() + self.connect_s
        while True:
            try:
                opening = connect(self.url, compression=None, max_size=None, proxy=None)
                self._connection = self._closing.enter_context(opening)
                break
            except (OSError, InvalidHandshake) as error:
                if time.monotonic() > until:
                    raise RemoteError(
                        f"no server at {self.url} within {self.connect_s:g} s ({error}): start it with worldmodel serve, "
                        "or wait longer with policy.connect_s=..."
                    ) from error
                time.sleep(_RETRY_S)
        hello = self._ask({"type": "hello"}, "hello")
        if hello["protocol"] != PROTOCOL:
            self.close()
            raise RemoteError(
                f"the server at {self.url} (worldmodel {hello.get('version')}) speaks protocol {hello['protocol']}, this "
                f"client {PROTOCOL}: install the same version at both ends"
            )
        return hello

    def _ask(self, message: dict[str, Any], wanted: str) -> dict[str, Any]:
        """The answer to a message, which is of the type `wanted`."""
        from websockets.exceptions import ConnectionClosed

        if self._connection is None:
            raise RemoteError(
                f"there is no connection to {self.url} any more, and the policy's past is gone with it: reset all rows, "
                "which connects again"
            )
        try:
            data = encode(message)
            self._connection.send(data[start : start + _FRAGMENT] for start in range(0, len(data), _FRAGMENT))
            answer = decode(self._connection.recv(timeout=self.timeout_s))
        except TimeoutError as error:
            self.close()  # a late answer would be taken for the next one
            raise RemoteError(
                f"no answer from {self.url} within {self.timeout_s:g} s; the connection is closed: look at the server, or "
                "wait longer with policy.timeout_s=..."
            ) from error
        except (ConnectionClosed, OSError) as error:
            self.close()
            raise RemoteError(
                f"the connection to {self.url} was lost ({error}), and the policy's past with it: start worldmodel serve "
                "again and run this again"
            ) from error
        except ProtocolError as error:
            self.close()
            raise RemoteError(f"{self.url} is no server of worldmodel's: {error}") from error
        if answer["type"] == "error":
            raise RemoteError(f"the server at {self.url} says: {answer.get('message')}")
        if answer["type"] != wanted:
            self.close()
            raise RemoteError(f"the server at {self.url} answers {answer['type']!r} where {wanted!r} was asked for")
        return answer


def _require_same(served: Interface, here: Interface, url: str) -> None:
    wrong = [f"{field} {getattr(served, field)}, not {getattr(here, field)}" for field in _COMPARED
             if getattr(served, field) != getattr(here, field)]  # fmt: skip
    if wrong:
        raise ValueError(f"the policy at {url} has {'; '.join(wrong)} as this env: give the env.* it was trained with")
