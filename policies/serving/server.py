"""Answers observations with actions over websockets: every client has a policy, and with it a past, of its own."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from policies.baselines import batch_size
from policies.policy import Policy
from policies.serving.protocol import (
    INSTALL,
    MAX_MB,
    PORT,
    PROTOCOL,
    ProtocolError,
    checked,
    checked_mask,
    decode,
    encode,
    schema,
)
from worldmodel.interface import Interface

_PATIENCE_S = 5.0  # with a client for whom there is no place
_FRAME = 4  # times the size limit that one frame may have before the connection is closed rather than answered


@dataclass
class Served:
    """What is served.

    Attributes:
        make_policy: makes a policy for a client; called in the one thread in which all policies act.
        interface: of the observations and actions.
        about: what `hello` tells beside the interface: plain values such as `policy`, `checkpoint` and `version`.
    """

    make_policy: Callable[[], Policy]
    interface: Interface
    about: dict[str, Any]


class Session:
    """One client's policy and what it was told last. Knows nothing of sockets: a message in, a message out."""

    def __init__(self, served: Served):
        self._served, self._schema = served, schema(served.interface)
        self._policy: Policy | None = None
        self._rows = 0  # of the last reset

    def answer(self, data: bytes | str) -> dict[str, Any]:
        """The answer to one message. Whatever is wrong with it, or goes wrong in the policy, is an `error`."""
        try:
            request = decode(data)
            answers = {"hello": self._hello, "reset": self._reset, "act": self._act}
            if request["type"] not in answers:
                raise ProtocolError(
                    f"a message of type {request['type'][:40]!r}, which is none of {', '.join(answers)}"
                )
            return answers[request["type"]](request)
        except Exception as error:  # a client's mistake must not end the others
            return _error(error)

    def close(self) -> None:
        """The client is gone; a policy with threads of its own ends them in a method `close`."""
        getattr(self._policy, "close", lambda: None)()

    def _hello(self, request: dict[str, Any]) -> dict[str, Any]:
        interface = self._served.interface.to_dict()
        return {"type": "hello", "protocol": PROTOCOL, **self._served.about, "interface": interface,
                "observation": self._schema}  # fmt: skip

    def _reset(self, request: dict[str, Any]) -> dict[str, Any]:
        observation = checked(request.get("observation"), self._schema)
        rows = batch_size(observation)
        mask = checked_mask(request.get("mask"), rows)
        if mask is not None and not mask.all() and rows != self._rows:
            raise ProtocolError(f"a reset of some of {rows} rows, where {self._rows} were started: reset all, mask=nil")
        if self._policy is None:
            self._policy = self._served.make_policy()
        self._policy.reset(observation, mask)
        self._rows = rows
        return {"type": "reset"}

    def _act(self, request: dict[str, Any]) -> dict[str, Any]:
        observation = checked(request.get("observation"), self._schema)
        if (rows := batch_size(observation)) != self._rows:
            raise ProtocolError(f"{rows} rows, where {self._rows} were started: send a reset with these {rows} first")
        action = np.asarray(self._policy.act(observation), np.float32)
        if not np.isfinite(action).all():
            raise FloatingPointError("the policy's action is not finite; its weights may have diverged")
        return {"type": "action", "action": action}


async def serve(
    served: Served,
    host: str = "127.0.0.1",
    port: int = PORT,
    *,
    max_mb: float = MAX_MB,
    max_clients: int = 8,
    ready: Callable[[str], None] | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """Serve until `stop` is set, or SIGINT or SIGTERM comes where this runs in the main thread.

    Policies act in one thread, one request after the other; the connections stay alive meanwhile. Pages in a browser
    (whatever sends an `Origin`) are turned away.

    Args:
        port: 0 takes a free one.
        max_mb: millions of bytes of the largest message. A larger one is answered with an error; a single frame of
            four times as much ends the connection, unread.
        max_clients: connections beyond it are told so and closed.
        ready: called with the address, `ws://<host>:<port>`, as soon as clients may come.

    Raises:
        OSError: the address can't be had.
        ModuleNotFoundError: websockets is missing; the message says what to install.
    """
    try:
        from websockets.asyncio.server import serve as listen
        from websockets.exceptions import ConnectionClosed
    except ImportError as error:
        raise ModuleNotFoundError(f"serving needs msgpack and websockets>=16 ({error}): {INSTALL}") from error

    stop, limit, clients = stop or asyncio.Event(), int(max_mb * 1e6), set()
    _stop_on_signals(stop)
    thread = ThreadPoolExecutor(1, thread_name_prefix="policy")

    async def attend(connection) -> None:
        session, loop = Session(served), asyncio.get_running_loop()
        patience = None if len(clients) < max_clients else _PATIENCE_S
        if patience is None:
            clients.add(connection)

        def respond(data: bytes | str) -> bytes:
            return encode(session.answer(data))

        try:
            while True:
                data = await asyncio.wait_for(_receive(connection, limit), patience)
                if patience is not None:  # told when it asks, so that it is listening
                    await connection.send(encode(_error(f"{max_clients} clients are here already: see max_clients")))
                    return
                if data is None:
                    answer = encode(_error(f"a message of more than max_mb={max_mb:g} million bytes"))
                else:
                    answer = await loop.run_in_executor(thread, respond, data)
                await connection.send(answer)
        except (ConnectionClosed, asyncio.TimeoutError):
            pass
        finally:
            clients.discard(connection)
            thread.submit(session.close)

    options = {"origins": [None], "compression": None, "max_size": (None, _FRAME * limit), "max_queue": 1}
    try:
        async with listen(attend, host, port, **options) as server:
            if ready is not None:
                ready(_address(server))
            await stop.wait()
    finally:
        thread.shutdown()


async def _receive(connection, limit: int) -> bytes | str | None:
    """The next message; None for one that is too large, which is read to its end and forgotten."""
    parts, size = [], 0
    async for part in connection.recv_streaming():
        size += len(part)
        parts = [*parts, part] if size <= limit else []
    if size > limit:
        return None
    return ("" if parts and isinstance(parts[0], str) else b"").join(parts)


def _error(error: Exception | str) -> dict[str, str]:
    ours = isinstance(error, (str, ProtocolError))
    return {"type": "error", "message": str(error) if ours else f"{type(error).__name__}: {error}"}


def _address(server) -> str:
    host, port = server.sockets[0].getsockname()[:2]
    return f"ws://[{host}]:{port}" if ":" in host else f"ws://{host}:{port}"


def _stop_on_signals(stop: asyncio.Event) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        except (RuntimeError, ValueError, NotImplementedError):
            return  # not the main thread, or Windows: whoever runs this stops it
