"""A small HTTP client for load: prepared requests over few connections, at little cost of its own.

A benchmark's own client takes processor time from what it measures. This one only writes bytes that
were made before, and finds where each reply ends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import httptools


def post(url: str, path: str, body: bytes, key: str | None, media_type: str) -> bytes:
    """The bytes of a POST request."""
    lines = [
        f"POST {path} HTTP/1.1",
        f"host: {urlsplit(url).netloc}",
        f"content-type: {media_type}",
        f"accept: {media_type}",
        f"content-length: {len(body)}",
        *([] if key is None else [f"authorization: Bearer {key}"]),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


class Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self._transport: Any = None
        self._parser: Any = None
        self._chunks: list[bytes] = []
        self._reply: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(exc or ConnectionError("the server closed the connection"))

    def on_body(self, body: bytes) -> None:
        self._chunks.append(body)

    def on_message_complete(self) -> None:
        assert self._reply is not None
        body = b"".join(self._chunks)
        status = self._parser.get_status_code()
        if status == 200:
            self._reply.set_result(body)
        else:
            self._reply.set_exception(RuntimeError(f"status {status}: {body[:500]!r}"))

    async def send(self, request: bytes) -> bytes:
        """The body of the reply; raises for any status but 200."""
        self._parser, self._chunks = httptools.HttpResponseParser(self), []
        self._reply = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._reply

    def close(self) -> None:
        self._transport.close()


async def run(
    url: str, requests: Sequence[bytes], in_flight: int
) -> tuple[float, list[float], list[bytes]]:
    """Sends the requests with so many in flight: seconds in all, milliseconds and body of each."""
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    took_ms = [0.0] * len(requests)
    bodies = [b""] * len(requests)
    left = iter(range(len(requests)))

    async def work(connection: Connection) -> None:
        for place in left:
            began = time.perf_counter()
            bodies[place] = await connection.send(requests[place])
            took_ms[place] = (time.perf_counter() - began) * 1000

    opened = [
        (await loop.create_connection(Connection, parts.hostname, parts.port))[1]
        for _ in range(in_flight)
    ]
    began = time.perf_counter()
    await asyncio.gather(*(work(connection) for connection in opened))
    seconds = time.perf_counter() - began
    for connection in opened:
        connection.close()
    return seconds, took_ms, bodies
