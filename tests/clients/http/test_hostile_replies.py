"""Whatever a server sends, a call ends with a typed error and holds no more than its bound."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import numpy as np
import pytest
from pydantic import ValidationError

from preceptor_clients.contract.errors import (
    PreceptorError,
    ProblemDetails,
    QueueFull,
    ServiceFailed,
    ServiceUnavailable,
    TooLarge,
)
from preceptor_clients.contract.schemas import (
    Capabilities,
    LogprobsCall,
    PrefixQuery,
    Prompt,
    ServiceInfo,
    ServiceLimits,
)
from preceptor_clients.http.connection import NO_RETRY, HttpClient, RetryPolicy
from preceptor_clients.http.service import ServiceClient

Reply = Callable[[httpx.Request], httpx.Response]
INFO = {"name": "e", "role": "expert", "version": "1"}


def client_of(reply: Reply) -> ServiceClient:
    return ServiceClient("http://e", retry=NO_RETRY, transport=httpx.MockTransport(reply))


def test_every_number_that_a_service_declares_is_bounded() -> None:
    wrong = {
        Capabilities: [
            *("max_top_k", "vocab_size", "head_size", "max_context", "cost_per_token", "late_s"),
        ],
        ServiceLimits: ["max_batch", "max_batch_tokens", "enough_tokens", "max_concurrency"],
    }
    for schema, fields in wrong.items():
        declared = schema.model_json_schema()["properties"].items()
        assert {n for n, f in declared if "integer" in str(f) or "number" in str(f)} == set(fields)
        for name in fields:
            for value in (-1, 10**12, 10**30):
                with pytest.raises(ValidationError, match=name):
                    schema.model_validate({name: value})


@pytest.mark.parametrize(
    "declared",
    [
        {"capabilities": {"vocab_size": 10**12}},
        {"limits": {"max_concurrency": 0}},
        {"limits": {"max_batch": 0}},
        {"capabilities": {"cost_per_token": -1}},
        {"version": "x" * 5000},
    ],
)
async def test_a_declaration_that_cannot_be_meant_is_a_failed_service(declared: Any) -> None:
    async with client_of(lambda _: httpx.Response(200, json=INFO | declared)) as client:
        with pytest.raises(ServiceFailed, match="ServiceInfo"):
            await client.info()


@pytest.mark.parametrize(
    "value", ["9" * 5000, "1e400", "-5", "٣", "Fri, 31 Dec 99999 23:59:59 GMT"]
)
async def test_any_retry_after_can_be_kept(value: str) -> None:
    headers = [(b"retry-after", value.encode())]
    reply = httpx.MockTransport(lambda _: httpx.Response(429, headers=headers))
    too_late = RetryPolicy(first_delay_s=300, max_delay_s=300)
    async with ServiceClient("http://e", retry=too_late, transport=reply) as client:
        with pytest.raises(QueueFull) as refused:
            await client.info(timeout_s=60)

    wait_s = refused.value.retry_after_s
    assert wait_s is None or 0 <= wait_s <= 86_400
    json.dumps(refused.value.problem().model_dump(mode="json"), allow_nan=False)


def test_a_problem_keeps_no_more_than_can_be_meant() -> None:
    errors = [{"field": "f", "detail": "d"}] * 10_000
    body = {"detail": "x" * 10**6, "status": 10**30, "errors": errors, "code": "c" * 10**6}
    text = json.dumps(body)[:-1] + ', "retry_after_s": 1e999}'

    problem = ProblemDetails.model_validate_json(text)

    assert problem.status == 500
    assert len(problem.model_dump_json()) < 20_000
    assert problem.retry_after_s == 86_400


async def test_an_encoding_that_was_not_asked_for_is_refused_unread() -> None:
    bomb = gzip.compress(b"0" * (50 << 20))

    def reply(_: httpx.Request) -> httpx.Response:
        stream = httpx.ByteStream(bomb)
        return httpx.Response(200, headers={"content-encoding": "gzip"}, stream=stream)

    async with client_of(reply) as client:
        with pytest.raises(ServiceFailed, match="encoded as 'gzip'"):
            await client.info()


class Endless(httpx.AsyncByteStream):
    """Chunks without end; counts what was taken."""

    taken = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            self.taken += 1 << 16
            yield b" " * (1 << 16)
            await asyncio.sleep(0)


async def test_endless_replies_are_held_up_to_what_can_be_meant() -> None:
    endless = Endless()
    query = PrefixQuery(
        prompt=Prompt(ids=np.array([1], np.int32)),
        response_ids=np.arange(4, dtype=np.int32),
        vocab_fingerprint="ab" * 32,
    )

    async with client_of(lambda _: httpx.Response(200, stream=endless)) as client:
        client._frames = False
        for ask in (
            lambda: client.info(),
            lambda: client.logprobs(LogprobsCall(queries=(query,)), 30.0),
        ):
            endless.taken = 0
            with pytest.raises(TooLarge):
                await ask()
            assert endless.taken < 4 << 20


async def test_redirects_are_not_followed() -> None:
    seen: list[str] = []

    def reply(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.host)
        return httpx.Response(307, headers={"location": "http://169.254.169.254/"})

    async with client_of(reply) as client:
        with pytest.raises(ServiceFailed):
            await client.info()

    assert seen == ["e"]


@pytest.mark.parametrize("raised", [httpx.InvalidURL("x"), ValueError("y"), UnicodeError("z")])
async def test_what_a_library_raises_is_a_typed_error(raised: Exception) -> None:
    def reply(_: httpx.Request) -> httpx.Response:
        raise raised

    async with client_of(reply) as client:
        with pytest.raises(PreceptorError):
            await client.info()
        with pytest.raises(PreceptorError):
            await client.raw("GET", "/x")
        assert not await client.ready()


async def test_a_real_server_that_sends_rubbish_is_a_typed_error() -> None:
    rubbish = [
        b"\x00\xff" * 100 + b"\r\n\r\n",
        b"HTTP/1.1 999 \x80\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 10**6 + b"\r\n\r\n",
    ]

    for sent in rubbish:

        async def serve(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sent: bytes = sent
        ) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(sent)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with HttpClient(f"http://127.0.0.1:{port}", retry=NO_RETRY) as client:
            with pytest.raises((ServiceUnavailable, ServiceFailed, TooLarge)):
                await client.call("GET", "/v1/info", reply=ServiceInfo, timeout_s=10)
        server.close()
