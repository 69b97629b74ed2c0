"""Deadlines, retries and typed errors of HTTP calls, on real sockets where the socket matters."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest
import uvicorn
from pydantic import BaseModel

from preceptor_clients.contract import wire
from preceptor_clients.contract.errors import (
    DeadlineExceeded,
    Invalid,
    NotFound,
    PreceptorError,
    QueueFull,
    ServiceFailed,
    ServiceUnavailable,
    StaleFence,
    TooLarge,
    Unauthorised,
)
from preceptor_clients.contract.schemas import Accepted, LogprobsCall
from preceptor_clients.http.connection import HttpClient, RetryPolicy
from preceptor_clients.http.service import ServiceClient
from preceptor_clients.sdk.service import service_app

QUICK = RetryPolicy(attempts=4, first_delay_s=0.001, max_delay_s=0.002)
OK = httpx.Response(200, json={"new": 1})


class Scripted:
    """Answers each request with the next of its lines, and keeps the requests."""

    def __init__(self, *lines: httpx.Response | Exception) -> None:
        self.lines = list(lines)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        line = self.lines.pop(0) if len(self.lines) > 1 else self.lines[0]
        if isinstance(line, Exception):
            raise line
        return httpx.Response(line.status_code, headers=line.headers, content=line.content)


def client(handler: Callable, retry: RetryPolicy = QUICK, **options) -> HttpClient:
    transport = httpx.MockTransport(handler)
    return HttpClient("http://gateway", "key", retry=retry, transport=transport, **options)


async def call(script: Scripted, **options) -> Accepted:
    async with client(script) as http:
        return await http.call("POST", "/x", body=Accepted(new=7), reply=Accepted, **options)


async def test_a_call_carries_key_and_frame_and_asks_for_a_frame():
    script = Scripted(OK)

    assert (await call(script)).new == 1

    request = script.requests[0]
    assert request.headers["authorization"] == "Bearer key"
    assert request.headers["content-type"] == wire.FRAME
    assert wire.accepted(request.headers["accept"]).media_type == wire.FRAME
    assert wire.parse(Accepted, request.content, wire.FRAME).new == 7


@pytest.mark.parametrize(
    "failure",
    [
        httpx.ConnectError("refused"),
        httpx.ReadError("reset"),
        httpx.RemoteProtocolError("closed"),
        httpx.Response(503),
        httpx.Response(429, text="<html>busy</html>", headers={"content-type": "text/html"}),
    ],
    ids=str,
)
async def test_a_failure_that_may_pass_is_tried_again(failure):
    script = Scripted(failure, failure, OK)

    assert (await call(script)).new == 1
    assert len(script.requests) == 3
    assert len({request.content for request in script.requests}) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 413, 422, 425, 500, 502, 504])
async def test_other_failures_come_back_at_once(status):
    script = Scripted(httpx.Response(status))

    with pytest.raises(PreceptorError, match=str(status)) as failed:
        await call(script)

    assert failed.value.status in (status, 502)
    assert len(script.requests) == 1


async def test_tries_are_counted():
    script = Scripted(httpx.ConnectError("refused"))

    with pytest.raises(ServiceUnavailable, match="refused"):
        await call(script)
    assert len(script.requests) == QUICK.attempts


@pytest.mark.parametrize(
    ("response", "error", "detail"),
    [
        (httpx.Response(409, json=StaleFence("old").problem().model_dump()), StaleFence, "old"),
        (httpx.Response(422, json={"detail": "x", "status": 422}), Invalid, "x"),
        (httpx.Response(404, json={"detail": [{"loc": ["body"]}]}), NotFound, "without details"),
        (httpx.Response(401, html="<h1>no</h1>"), Unauthorised, "answered 401"),
        (httpx.Response(404), NotFound, "answered 404"),
        (httpx.Response(418, content=b"\xff"), ServiceFailed, "answered 418"),
        (httpx.Response(302, headers={"location": "http://evil"}), ServiceFailed, "answered 302"),
        (httpx.Response(200, html="<h1>hello</h1>"), ServiceFailed, "Accepted"),
        (httpx.Response(200, json={"old": 1}), ServiceFailed, "new"),
        (httpx.Response(200, content=b""), ServiceFailed, "Accepted"),
    ],
    ids=str,
)
async def test_every_reply_that_is_none_of_ours_is_a_typed_error(response, error, detail):
    with pytest.raises(error, match=detail):
        await call(Scripted(response))


async def test_the_fields_of_a_problem_survive():
    problem = Invalid("is empty", field="items[3].query.response_ids").problem()
    headers = {"content-type": "application/problem+json"}
    response = httpx.Response(422, content=problem.model_dump_json(), headers=headers)

    with pytest.raises(Invalid) as failed:
        await call(Scripted(response))

    assert failed.value.errors == problem.errors


async def test_retry_after_is_honoured():
    script = Scripted(httpx.Response(429, headers={"retry-after": "1"}), OK)
    began = time.monotonic()

    await call(script, timeout_s=30)

    assert time.monotonic() - began >= 1.0


@pytest.mark.parametrize("as_date", [False, True])
async def test_a_retry_after_beyond_the_deadline_fails_at_once(as_date):
    later = datetime.now(UTC) + timedelta(seconds=3600)
    value = format_datetime(later, usegmt=True) if as_date else "3600"
    script = Scripted(httpx.Response(429, headers={"retry-after": value}))

    with pytest.raises(QueueFull) as failed:
        await call(script, timeout_s=30)

    assert failed.value.retry_after_s == pytest.approx(3600, abs=60)
    assert len(script.requests) == 1


async def test_the_deadline_covers_the_retries_and_names_the_last_failure():
    patient = RetryPolicy(attempts=1000, first_delay_s=0.01, max_delay_s=0.02)

    async with client(Scripted(httpx.Response(503)), patient) as http:
        with pytest.raises((DeadlineExceeded, ServiceUnavailable), match="503"):
            await http.call("GET", "/x", timeout_s=0.2)


async def test_the_deadline_covers_the_wait_for_a_slot():
    async def slow(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(60)
        return OK

    async with client(slow, max_concurrency=1) as http:
        blocker = asyncio.create_task(http.call("GET", "/x", timeout_s=60))
        await asyncio.sleep(0)
        with pytest.raises(DeadlineExceeded, match=r"GET http://gateway/x took more than 0\.05 s"):
            await http.call("GET", "/x", timeout_s=0.05)
        blocker.cancel()
        with pytest.raises(asyncio.CancelledError):
            await blocker


async def test_no_more_calls_run_at_once_than_allowed():
    running = most = 0

    async def counted(request: httpx.Request) -> httpx.Response:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        return httpx.Response(204)

    async with client(counted, max_concurrency=3) as http:
        await asyncio.gather(*(http.call("GET", "/x") for _ in range(20)))

    assert most == 3


async def test_a_reply_over_the_limit_is_refused():
    async with client(
        Scripted(httpx.Response(200, content=bytes(2000))), max_reply_bytes=1000
    ) as http:
        with pytest.raises(TooLarge, match="1000"):
            await http.call("GET", "/x")


async def test_readiness_is_a_plain_answer():
    for response, ready in (
        (httpx.Response(200), True),
        (httpx.Response(503), False),
        (httpx.Response(404), False),
        (httpx.ConnectError("refused"), False),
    ):
        async with client(Scripted(response)) as http:
            assert await http.ready() is ready


async def test_waiting_for_readiness_ends_as_soon_as_it_is_there():
    async with client(Scripted(httpx.ConnectError("no"), httpx.Response(503), OK)) as http:
        await http.wait_ready(timeout_s=30)

    async with client(Scripted(httpx.ConnectError("no"))) as http:
        with pytest.raises(DeadlineExceeded):
            await http.wait_ready(timeout_s=0.05)


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("attempts", {"attempts": 0}),
        ("first_delay_s", {"first_delay_s": 0.0}),
        ("first_delay_s", {"first_delay_s": 9.0}),
    ],
)
def test_a_retry_policy_that_cannot_be_meant_is_refused(field, options):
    with pytest.raises(ValueError, match=field):
        RetryPolicy(**options)


# ---------------------------------------------------------------- real sockets


@asynccontextmanager
async def server(handle: Callable) -> AsyncIterator[str]:
    """A server that does to each connection what the test wants, and then closes it."""
    handlers: list[asyncio.Task[None]] = []

    async def handled(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handle(reader, writer)
            await writer.drain()
        finally:
            writer.close()
            await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.append(asyncio.create_task(handled(reader, writer)))

    listening = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        listening.close()
        await asyncio.gather(*handlers)


@asynccontextmanager
async def serving(app: Callable) -> AsyncIterator[str]:
    """A real ASGI server on a free port."""
    config = uvicorn.Config(app, port=0, log_level="error", lifespan="off")
    running = uvicorn.Server(config)
    task = asyncio.create_task(running.serve())
    while not running.started:
        await asyncio.sleep(0.01)
    port = running.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        running.should_exit = True
        await task


async def test_a_refused_connection_is_unavailable():
    async with HttpClient("http://127.0.0.1:1", retry=QUICK) as http:
        with pytest.raises(ServiceUnavailable, match=r"127\.0\.0\.1:1"):
            await http.call("GET", "/x")


async def test_a_connection_broken_within_the_reply_is_tried_again():
    tries = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal tries
        tries += 1
        await reader.readuntil(b"\r\n\r\n")
        cut = tries < 3
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n"
        writer.write(head + (b'{"n' if cut else b'{"new":1}'))

    async with server(handle) as url, HttpClient(url, retry=QUICK) as http:
        reply = await http.call("GET", "/x", reply=Accepted)

    assert reply.new == 1
    assert tries == 3


async def test_bytes_that_are_no_http_are_unavailable():
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")

    async with server(handle) as url, HttpClient(url, retry=QUICK) as http:
        with pytest.raises(ServiceUnavailable):
            await http.call("GET", "/x")


async def test_a_server_that_says_nothing_meets_the_deadline():
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with server(handle) as url, HttpClient(url) as http:
        with pytest.raises(DeadlineExceeded):
            await http.call("GET", "/x", timeout_s=0.1)


async def test_a_service_answers_over_real_sockets_and_cancelling_reaches_it(expert, make_query):
    app = service_app(expert, key="k")
    one = LogprobsCall(queries=(make_query(),))

    async with serving(app) as url, ServiceClient(url, "k") as service:
        reply = await service.logprobs(one, timeout_s=30)
        expert.delay_s = 60.0
        asking = asyncio.create_task(service.logprobs(one, timeout_s=60))
        while len(expert.asked) < 2:
            await asyncio.sleep(0.005)
        asking.cancel()
        async with asyncio.timeout(10):
            await expert.cancelled.wait()

    assert reply.results[0].answer is not None
    assert asking.cancelled()


async def test_a_service_that_knows_json_only_is_asked_in_json(expert, make_query, monkeypatch):
    seen: list[str] = []
    inner = service_app(expert)

    async def json_only(scope, receive, send):
        async def edited(message):
            if message["type"] == "http.response.body" and scope["path"] == "/v1/info":
                info = message["body"].replace(b'"frames":true', b'"frames":false')
                message = {**message, "body": info}
            if message["type"] == "http.response.start":
                kept = [(k, v) for k, v in message["headers"] if k != b"content-length"]
                message = {**message, "headers": kept}
            await send(message)

        seen.append(dict(scope["headers"]).get(b"content-type", b"").decode())
        await inner(scope, receive, edited)

    transport = httpx.ASGITransport(json_only)
    async with ServiceClient("http://service", transport=transport) as service:
        await service.logprobs(LogprobsCall(queries=(make_query(),)), timeout_s=5)
        await service.logprobs(LogprobsCall(queries=(make_query(),)), timeout_s=5)

    assert seen == ["", wire.JSON, wire.JSON]


async def test_a_reply_with_too_few_results_is_refused(make_query):
    class Empty(BaseModel):
        results: tuple[int, ...] = ()

    script = Scripted(
        httpx.Response(200, json={"name": "e", "role": "expert", "version": "1"}),
        httpx.Response(200, content=wire.render(Empty(), wire.JSON)),
    )
    transport = httpx.MockTransport(script)
    async with ServiceClient("http://service", transport=transport) as service:
        with pytest.raises(ServiceFailed, match="0 results for 1"):
            await service.logprobs(LogprobsCall(queries=(make_query(),)), timeout_s=5)
