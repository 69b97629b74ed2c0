"""The protocol of verifiers' `EnvServer`: requests over ZeroMQ, bodies in MessagePack.

    [request id, "run", {task_data, client, model, sampling}]
        -> [request id, "delta", {trace, open, set, errors, discard, ...}], ...
        -> [request id, "reply", {success, error, head, traces}]
    [request id, "cancel", {request_id}] -> [request id, "reply", {success, cancelled}]
    [request id, "health", {}]           -> [request id, "reply", {success}]

ZeroMQ's own heartbeats show that a server is gone, also while its program is busy; the socket then
connects again by itself, and what was under way is lost (`GONE`). Read from the released package
verifiers 0.4; it is not needed here, only the extra `verifiers`. Left out: token ids and log-probs
of a trace, since the student's own are at hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import uuid
from collections.abc import Callable
from typing import Any, Final, cast

from preceptor_trainer.environments.environment import Unreachable

_CANCEL_S: Final = 5.0
_PING_MS: Final = 10_000
_GONE_MS: Final = 30_000
GONE: Final = "gone"
Frame = dict[str, Any]
Take = Callable[[str, Frame], None]
"""Takes a frame of one request, `delta` or `reply`, or `GONE`; must not raise."""


def library() -> tuple[Any, Any]:
    """The packages `zmq.asyncio` and `msgpack`.

    Raises:
        ValueError: one is not installed.
    """
    try:
        for needed in ("uvicorn", "zmq", "msgpack"):
            importlib.import_module(needed)
    except ImportError:
        raise ValueError(
            "environments of verifiers need the extra `verifiers`: "
            "pip install 'preceptor[verifiers]'"
        ) from None
    return importlib.import_module("zmq.asyncio"), importlib.import_module("msgpack")


class Wire:
    """A connection to one server, shared by all attempts of a run."""

    def __init__(self, url: str) -> None:
        self.url = url
        asynchronous, self._msgpack = library()
        zmq = importlib.import_module("zmq")
        self._context = asynchronous.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.heartbeat_ivl, self._socket.heartbeat_timeout = _PING_MS, _GONE_MS
        self._takes: dict[str, Take] = {}
        monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        try:
            self._socket.connect(url)
        except Exception as error:
            self._context.destroy(linger=0)
            raise Unreachable(f"{url}: {error}") from error
        self._tasks = [
            asyncio.create_task(self._receive()),
            asyncio.create_task(self._watch(monitor)),
        ]

    async def health(self, limit_s: float) -> None:
        """Returns once the server has answered.

        Raises:
            Unreachable: it did not within `limit_s`.
        """
        try:
            await self._asked("health", {}, limit_s)
        except TimeoutError:
            raise Unreachable(f"{self.url}: no answer to health within {limit_s:g} s") from None

    async def run(self, request: Frame, take: Take) -> str:
        """Starts a rollout; returns its id.

        Args:
            request: What is to be run.
            take: Is called with every frame about it.
        """
        return await self._send("run", request, take)

    async def cancel(self, run: str) -> None:
        """Ends a rollout at the server, and waits until it says so; never raises."""
        with contextlib.suppress(Exception):
            await self._asked("cancel", {"request_id": run}, _CANCEL_S)
        self._takes.pop(run, None)

    def forget(self, run: str) -> None:
        """Takes no further frame of a rollout that has ended."""
        self._takes.pop(run, None)

    async def close(self) -> None:
        """Ends the connection."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._socket.disable_monitor()
        self._context.destroy(linger=0)

    async def _asked(self, method: str, body: Frame, limit_s: float) -> Frame:
        reply: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()

        def take(kind: str, frame: Frame) -> None:
            if kind == "reply" and not reply.done():
                reply.set_result(frame)

        async with asyncio.timeout(limit_s):
            asked = await self._send(method, body, take)
            try:
                return await reply
            finally:
                self._takes.pop(asked, None)

    async def _send(self, method: str, body: Frame, take: Take) -> str:
        asked = uuid.uuid4().hex
        self._takes[asked] = take
        packed = self._msgpack.packb(body, use_bin_type=True)
        await self._socket.send_multipart([asked.encode(), method.encode(), packed])
        return asked

    async def _receive(self) -> None:
        while True:
            frames = await self._socket.recv_multipart()
            # One malformed frame must not end the other attempts of the run.
            with contextlib.suppress(Exception):
                request, kind, packed = frames
                take = self._takes.get(request.decode())
                body: Any = self._msgpack.unpackb(packed, raw=False, strict_map_key=False)
                if take is not None and isinstance(body, dict):
                    take(kind.decode(), cast("Frame", body))

    async def _watch(self, monitor: Any) -> None:
        """Tells all who wait when the connection is lost."""
        while True:
            await monitor.recv_multipart()
            for take in list(self._takes.values()):
                take(GONE, {})
