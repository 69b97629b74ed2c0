"""Whoever sends a head without end, or slowly, loses the connection and holds up nobody."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from preceptor_clients.contract.errors import ProblemDetails, RequestTimeout, from_problem
from preceptor_clients.sdk import serving
from preceptor_clients.sdk.serving import http_protocol


async def _app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    size, more = 0, True
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    head = [(b"content-length", b"%d" % len(str(size)))]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": str(size).encode()})


@contextlib.asynccontextmanager
async def _served(app: Any) -> AsyncIterator[int]:
    config = uvicorn.Config(
        app, port=0, log_level="error", http=http_protocol(), ws="none", lifespan="off"
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await task


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    monkeypatch.setattr(serving, "LINGER_S", 60.0)  # however slowly a test sends
    async with _served(_app) as port:
        yield port


@pytest.fixture
async def faults() -> list[Any]:
    """What the event loop was told of."""
    found: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: found.append(told))
    return found


@contextlib.asynccontextmanager
async def _connected(port: int) -> AsyncIterator[tuple[Any, Any]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def _say(port: int, *pieces: bytes) -> bytes:
    """What comes back until the other side closes, or has said nothing for a while."""
    async with _connected(port) as (reader, writer):
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
        said = b""
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(5):
                while more := await reader.read(1 << 16):
                    said += more
        return said


async def test_honest_requests_pass_one_after_the_other_on_a_connection(port: int) -> None:
    get = b"GET / HTTP/1.1\r\nhost: h\r\n\r\n"
    post = b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 300000\r\n\r\n" + b"x" * 300_000
    last = b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n"

    said = await _say(port, get, post, last)

    assert said.count(b"200 OK") == 3
    assert b"300000" in said


@pytest.mark.parametrize(
    "head",
    [
        [b"x: " + b"y" * (1 << 20)],
        [b"x: y\r\n"] * 5000,
        [b"x: " + b"y" * 1000 + b"\r\n"] * 90 + [b"z" * 65_536],
    ],
)
async def test_a_head_that_is_too_large_is_refused(port: int, head: list[bytes]) -> None:
    said = await _say(port, b"GET / HTTP/1.1\r\nhost: h\r\n", *head)

    assert b"200" not in said
    assert b"431" in said


async def test_a_head_that_is_refused_and_has_a_fault_after_that_is_answered_once(
    port: int, faults: list[Any]
) -> None:
    said = await _say(port, b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 200 + b"no colon\r\n\r\n")

    assert said.startswith(b"HTTP/1.1 431")
    assert said.count(b"HTTP/1.1") == 1
    assert faults == []


async def test_slow_heads_lose_their_connections_and_others_are_answered(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "HEAD_S", 0.3)
    async with contextlib.AsyncExitStack() as stack:
        slow = [await stack.enter_async_context(_connected(port)) for _ in range(50)]
        for _, writer in slow:
            writer.write(b"GET / HTTP/1.1\r\nx: ")
        answered = await _say(port, b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
        async with asyncio.timeout(10):
            ends = [await reader.read() for reader, _ in slow]

    assert b"200 OK" in answered
    assert all(b"408" in end for end in ends)


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"POST / HTTP/1.1\r\ncontent-length: 9\r\n\r\nx"])
async def test_who_says_nothing_more_loses_the_connection(
    port: int, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(serving, "HEAD_S", 0.2)
    monkeypatch.setattr(serving, "BODY_WINDOW_S", 0.2)
    async with _connected(port) as (reader, writer):
        writer.write(sent)
        async with asyncio.timeout(5):
            said = await reader.read()

    assert b"200" not in said


async def test_who_reads_only_after_the_last_byte_still_reads_why_it_was_refused(
    port: int,
) -> None:
    async with _connected(port) as (reader, writer), asyncio.timeout(20):
        writer.write(b"GET / HTTP/1.1\r\n")
        for _ in range(100):
            writer.write(b"x: " + b"y" * 997 + b"\r\n")
            await asyncio.sleep(0.001)
        said = await reader.read()

    assert said.startswith(b"HTTP/1.1 431")


async def test_a_refused_caller_that_goes_on_sending_is_cut_off(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "LINGER_S", 0.1)
    async with _connected(port) as (_, writer), asyncio.timeout(20):
        writer.write(b"GET / HTTP/1.1\r\nx: ")

        async def send_on() -> None:
            while True:
                writer.write(b"y" * 9000)
                await writer.drain()
                await asyncio.sleep(0.01)

        with pytest.raises(ConnectionError):
            await send_on()


POST = b"POST / HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"


async def _send_in_pieces(port: int, size: int, piece: int, pause_s: float) -> bytes:
    async with _connected(port) as (reader, writer), asyncio.timeout(20):
        writer.write(POST % size)
        reading = asyncio.create_task(reader.read())
        for start in range(0, size, piece):
            if reading.done():
                break
            writer.write(b"x" * min(piece, size - start))
            await asyncio.sleep(pause_s)
        return await reading


async def test_a_body_that_trickles_byte_by_byte_is_refused_in_plain_words(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "BODY_WINDOW_S", 0.3)

    said = await _send_in_pieces(port, size=10_000, piece=1, pause_s=0.02)

    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408")
    problem = from_problem(ProblemDetails.model_validate_json(body))
    assert isinstance(problem, RequestTimeout)
    assert "the body came too slowly" in problem.detail


async def test_an_application_that_reads_after_the_refusal_is_told_that_the_caller_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(serving, "BODY_WINDOW_S", 0.05)
    refused, told = asyncio.Event(), asyncio.get_running_loop().create_future()

    async def reads_late(scope: Any, receive: Any, send: Any) -> None:
        await refused.wait()
        try:
            told.set_result(await receive())
        except RuntimeError as error:
            told.set_exception(error)

    async with (
        _served(reads_late) as port,
        asyncio.timeout(20),
        _connected(port) as (reader, writer),
    ):
        writer.write(b"POST / HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n")
        said = await reader.read()
        refused.set()

        assert said.startswith(b"HTTP/1.1 408")
        assert await told == {"type": "http.disconnect"}


async def test_a_slow_body_that_keeps_the_smallest_rate_is_taken(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "BODY_WINDOW_S", 1.0)
    monkeypatch.setattr(serving, "LEAST_BODY_BYTES", 100)

    said = await _send_in_pieces(port, size=15_000, piece=1000, pause_s=0.1)

    assert b"200 OK" in said
    assert said.endswith(b"15000")


async def test_a_caller_is_not_late_while_the_application_does_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(serving, "BODY_WINDOW_S", 0.5)

    async def reads_late(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(1.0)
        await _app(scope, receive, send)

    async with _served(reads_late) as port:
        said = await _send_in_pieces(port, size=3_000_000, piece=3_000_000, pause_s=0.0)

    assert b"200 OK" in said
