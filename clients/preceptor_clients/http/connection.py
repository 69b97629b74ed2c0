"""HTTP calls with deadlines and safe retries; the only module that touches the HTTP library.

Every call has a deadline that covers its retries and its wait for a free connection. Retries are
safe because every request of the contract is idempotent: by its key, by its content hash, or by
nature. What is retried: no connection, a broken connection, 408, 429 and 503 (after `Retry-After`
where it is given). Everything else comes back at once as a typed error. Cancelling a call closes
its connection, which the server takes as a cancellation. Redirects are not followed: a key must not
be sent to an address that is not configured.

Calls go through aiohttp, which takes a third of httpx's time for one. Outside addresses are called
through httpx and the proxy that the environment names (`proxies.py`); tests hand in a transport of
httpx, such as an application.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import random
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from types import TracebackType
from typing import Any, Final, NamedTuple, Protocol, Self, TypeAlias, TypeVar, cast, overload

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport
from pydantic import BaseModel, ValidationError

from preceptor_clients.contract import version as contract_version
from preceptor_clients.contract import wire
from preceptor_clients.contract.errors import (
    DeadlineExceeded,
    PreceptorError,
    ProblemDetails,
    ServiceFailed,
    ServiceUnavailable,
    TooLarge,
    bounded_seconds,
    from_problem,
)
from preceptor_clients.contract.json_text import allow_long_integers
from preceptor_clients.http.addresses import ANYWHERE, AddressPolicy, AddressRefused
from preceptor_clients.http.proxies import proxy_of
from preceptor_clients.kit import request_ids
from preceptor_clients.kit.threads import on_bytes

M = TypeVar("M", bound=BaseModel)
MAX_REPLY_BYTES: Final = 1 << 30
CALL_TIMEOUT_S: Final = 30.0
_CONNECT_TIMEOUT_S: Final = 10.0
_KEEPALIVE_S: Final = 4.0
"""Below the five seconds after which common servers close an idle connection."""
_READ_BYTES: Final = 1 << 20
"""Of a reply's body, as much is taken from the connection before the caller reads it."""
_MOST_PORT: Final = 65_535
_MOST_WORDS: Final = 1 << 12
"""Most characters kept of another server's error text."""
_RETRIED_STATUS: Final = frozenset({408, 429, 503})
_ACCEPT: Final = f"{wire.FRAME}, {wire.JSON};q=0.9"
_log = logging.getLogger("preceptor.http")


@cache
def _trusted() -> ssl.SSLContext:
    """Trusted certificates, read once: reading them takes 20 ms, too long for one-call clients."""
    return httpx.create_ssl_context()


Transport: TypeAlias = httpx.AsyncBaseTransport
"""Sends the requests; tests pass an application instead."""


def check_url(url: str, addresses: AddressPolicy = ANYWHERE) -> tuple[str, int]:
    """Host and port of a base address.

    Raises:
        ValueError: it cannot be connected to, or `addresses` does not allow it.
    """
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise ValueError(f"url: {url[:200]!r} is not a valid address: {error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError(f"url: {url[:200]!r} is not an http:// or https:// address")
    port = parsed.port or (443 if parsed.scheme == "https" else 80)
    if port > _MOST_PORT:
        raise ValueError(f"url: port {port} is over {_MOST_PORT}")
    try:
        addresses.check_host(parsed.host, port)
    except AddressRefused as error:
        raise ValueError(f"url: {error}") from None
    return parsed.host, port


class _Reply(NamedTuple):
    """What came back."""

    status: int
    headers: Mapping[str, str]
    """Their names in any case."""
    body: bytes


class _Sender(Protocol):
    """Sends one request and reads its reply, up to so many bytes."""

    async def send(self, request: _Request, max_bytes: int) -> _Reply: ...

    async def aclose(self) -> None: ...


class _Request(NamedTuple):
    method: str
    path: str
    headers: Mapping[str, str]
    content: bytes | None = None
    params: Mapping[str, str | int] | None = None


class _Direct:
    """Sends over aiohttp."""

    def __init__(self, url: str, max_connections: int, addresses: AddressPolicy) -> None:
        self._url = url.rstrip("/")
        self._max_connections = max_connections
        self._addresses = addresses
        self._session: aiohttp.ClientSession | None = None

    async def send(self, request: _Request, max_bytes: int) -> _Reply:
        if self._session is None:
            self._session = self._open()
        response = await self._session.request(
            request.method,
            self._url + request.path,
            params=request.params,
            data=request.content,
            headers=request.headers,
            allow_redirects=False,
        )
        async with response:
            body = await _read(response.headers, response.content.iter_any(), max_bytes)
        return _Reply(response.status, response.headers, body)

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                keepalive_timeout=_KEEPALIVE_S,
                ssl=_trusted(),
                limit=self._max_connections,
                socket_factory=self._addresses.open_socket,
            ),
            # Without cookies: a service could keep some and get them back in other calls.
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(sock_connect=_CONNECT_TIMEOUT_S),
            auto_decompress=False,
            read_bufsize=_READ_BYTES,
        )


class _OverHttpx:
    """Sends over a transport of httpx."""

    def __init__(self, url: str, transport: Transport) -> None:
        self._http = httpx.AsyncClient(
            base_url=url,
            timeout=httpx.Timeout(None, connect=_CONNECT_TIMEOUT_S),
            transport=transport,
            follow_redirects=False,
        )

    async def send(self, request: _Request, max_bytes: int) -> _Reply:
        built = self._http.build_request(
            request.method,
            request.path,
            content=request.content,
            params=request.params,
            headers=dict(request.headers),
        )
        response = await self._http.send(built, stream=True)
        try:
            body = await _read(response.headers, response.aiter_bytes(), max_bytes)
        finally:
            await response.aclose()
        return _Reply(response.status_code, response.headers, body)

    async def aclose(self) -> None:
        await self._http.aclose()


def _sender(
    url: str, max_connections: int, addresses: AddressPolicy, transport: Transport | None
) -> _Sender:
    if transport is not None:
        return _OverHttpx(url, transport)
    # A proxy would choose the address, so it is used only where every address is allowed.
    proxy = proxy_of(url) if addresses.everything else None
    if proxy is None:
        return _Direct(url, max_connections, addresses)
    limits = httpx.Limits(max_connections=max_connections, keepalive_expiry=_KEEPALIVE_S)
    through = AiohttpTransport(verify=_trusted(), limits=limits, proxy=httpx.Proxy(proxy))
    return _OverHttpx(url, through)


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """When a call is tried again: after a delay that doubles, drawn from its upper half."""

    attempts: int = 10
    """Tries without any reply before the call fails; 1 means no retry. A server that replies that
    it is busy is asked again until the deadline."""
    first_delay_s: float = 0.1
    max_delay_s: float = 5.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts: {self.attempts} is below 1")
        if not 0 < self.first_delay_s <= self.max_delay_s:
            raise ValueError(f"first_delay_s: {self.first_delay_s} is not in (0, max_delay_s]")

    def delay_s(self, attempt: int) -> float:
        """How long to wait after failed try number `attempt`, counted from 0."""
        ceiling = min(self.max_delay_s, self.first_delay_s * 2 ** min(attempt, 30))
        return random.uniform(ceiling / 2, ceiling)


DEFAULT_RETRY: Final = RetryPolicy()
NO_RETRY: Final = RetryPolicy(attempts=1)


class HttpClient:
    """Typed calls to one base address; an async context manager."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        max_concurrency: int = 16,
        retry: RetryPolicy = DEFAULT_RETRY,
        transport: Transport | None = None,
        max_reply_bytes: int = MAX_REPLY_BYTES,
        addresses: AddressPolicy = ANYWHERE,
    ) -> None:
        """Makes the client; nothing is sent yet.

        Raises:
            ValueError: `url` is not a valid address.
        """
        allow_long_integers()  # requests and replies may hold them
        check_url(url)
        self._headers = {
            "accept": _ACCEPT,
            "accept-encoding": "identity",
            contract_version.HEADER: contract_version.CONTRACT,
        }
        if key is not None:
            self._headers["authorization"] = f"Bearer {key}"
        self._sender = _sender(url, max_concurrency, addresses, transport)
        self._slots = asyncio.Semaphore(max_concurrency)
        self._retry = retry
        self._max_reply_bytes = max_reply_bytes
        self._url = url

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connections; calls in progress fail."""
        await self._sender.aclose()

    @overload
    async def call(
        self,
        method: str,
        path: str,
        *,
        reply: type[M],
        body: BaseModel | None = None,
        params: Mapping[str, str | int] | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
        media_type: str = wire.FRAME,
        max_reply_bytes: int | None = None,
    ) -> M: ...
    @overload
    async def call(
        self,
        method: str,
        path: str,
        *,
        reply: None = None,
        body: BaseModel | None = None,
        params: Mapping[str, str | int] | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
        media_type: str = wire.FRAME,
        max_reply_bytes: int | None = None,
    ) -> None: ...
    async def call(
        self,
        method: str,
        path: str,
        *,
        reply: type[M] | None = None,
        body: BaseModel | None = None,
        params: Mapping[str, str | int] | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
        media_type: str = wire.FRAME,
        max_reply_bytes: int | None = None,
    ) -> M | None:
        """One call, tried again where that is safe.

        Args:
            method: HTTP method.
            path: Path below the base address, with its leading slash.
            reply: Type of the reply; None to ignore its body.
            body: Message to send.
            params: Query parameters.
            timeout_s: Deadline of the whole call, retries and waiting included.
            media_type: Rendering of `body`.
            max_reply_bytes: A longer reply is refused; the client's own limit where absent.

        Raises:
            PreceptorError: the problem that came back, `DeadlineExceeded`, `ServiceUnavailable`
                when there was no connection, or `ServiceFailed` when the reply does not follow
                the contract.
        """
        content = None if body is None else await _rendered(body, media_type)
        received = await self.exchange(
            method,
            path,
            content=content,
            content_type=None if body is None else media_type,
            params=params,
            timeout_s=timeout_s,
            max_reply_bytes=max_reply_bytes,
        )
        if reply is None:
            return None
        try:
            body_read = received.body
            size = wire.reading_size(body_read)
            return await on_bytes(size, wire.parse, reply, body_read, received.content_type)
        except PreceptorError as error:
            raise ServiceFailed(
                f"{method} {self._url}{path} sent a reply that is not a valid "
                f"{reply.__name__}: {error.detail}"
            ) from error

    async def exchange(
        self,
        method: str,
        path: str,
        *,
        content: bytes | None = None,
        content_type: str | None = None,
        params: Mapping[str, str | int] | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
        max_reply_bytes: int | None = None,
    ) -> Received:
        """`call` for plain bytes, such as blobs."""
        most = min(self._max_reply_bytes, max_reply_bytes or self._max_reply_bytes)
        request_id = request_ids.current() or request_ids.new()
        headers = {**self._headers, request_ids.HEADER: request_id}
        if content_type is not None:
            headers["content-type"] = content_type
        request = _Request(method, path, headers, content, params)
        last: PreceptorError | None = None
        try:
            async with asyncio.timeout(timeout_s) as deadline:
                for attempt in itertools.count():
                    try:
                        async with self._slots:
                            return await self._once(request, most)
                    except _Retried as failure:
                        last = failure.error
                        delay_s = max(self._retry.delay_s(attempt), last.retry_after_s or 0.0)
                        left_s = (deadline.when() or 0.0) - asyncio.get_running_loop().time()
                        unreachable = not failure.answered and attempt + 1 >= self._retry.attempts
                        if unreachable or delay_s >= left_s:
                            raise last from failure.__cause__
                    await asyncio.sleep(delay_s)
        except TimeoutError:
            why = "" if last is None else f"; the last try: {last.detail}"
            raise DeadlineExceeded(
                f"{method} {self._url}{path} took more than {timeout_s:g} s{why}"
            ) from last
        raise AssertionError("the loop ends by returning or raising")

    async def _once(self, request: _Request, max_bytes: int) -> Received:
        began = time.monotonic()
        try:
            reply = await self._sender.send(request, max_bytes)
        except (httpx.RequestError, aiohttp.ClientError, OSError) as error:
            reason = (str(error) or type(error).__name__)[:_MOST_WORDS]
            unavailable = ServiceUnavailable(f"no reply from {self._url}: {reason}")
            raise _Retried(unavailable, answered=False) from error
        except (httpx.InvalidURL, ValueError) as error:
            # Libraries that read the reply, or the address, may raise any exception.
            raise ServiceFailed(f"the call to {self._url} failed: {error!r:.500}") from error
        if _log.isEnabledFor(logging.DEBUG):
            with request_ids.serving(request.headers.get(request_ids.HEADER)):
                _log.debug(
                    "%s %s%s: %d after %.1f ms",
                    *(request.method, self._url, request.path, reply.status),
                    (time.monotonic() - began) * 1000,
                )
        contract_version.check_contract(reply.headers.get(contract_version.HEADER), self._url)
        if 200 <= reply.status < 300:
            return Received(reply.body, reply.headers.get("content-type"))
        error = _error_of(reply, f"{request.method} {self._url}{request.path}")
        if reply.status in _RETRIED_STATUS:
            raise _Retried(error, answered=True)
        raise error

    async def raw(
        self,
        method: str,
        path: str,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> RawReply:
        """One try without retries; returns a reply of any status, for checks of a service.

        Raises:
            DeadlineExceeded: nothing came in time.
            ServiceUnavailable: there was no connection.
        """
        request = _Request(method, path, {**self._headers, **_lower(headers)}, content)
        try:
            async with asyncio.timeout(timeout_s), self._slots:
                reply = await self._sender.send(request, self._max_reply_bytes)
        except TimeoutError:
            raise DeadlineExceeded(f"{method} {path} took more than {timeout_s:g} s") from None
        except (httpx.RequestError, aiohttp.ClientError, OSError) as error:
            raise ServiceUnavailable(f"no reply from {self._url}: {error}") from error
        except (httpx.InvalidURL, ValueError) as error:
            raise ServiceFailed(f"the call to {self._url} failed: {error!r:.500}") from error
        sent_at = _epoch_s(reply.headers.get("date"))
        return RawReply(reply.status, reply.headers.get("content-type"), reply.body, sent_at)

    async def ready(self, timeout_s: float = 2.0) -> bool:
        """Whether the server reports that it is ready."""
        try:
            async with asyncio.timeout(timeout_s), self._slots:
                await self._once(_Request("GET", "/readyz", self._headers), 1 << 16)
        except (PreceptorError, _Retried, TimeoutError):
            return False
        return True

    async def wait_ready(self, timeout_s: float) -> None:
        """Returns as soon as the server is ready.

        Raises:
            DeadlineExceeded: it was not within `timeout_s`.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not await self.ready():
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise DeadlineExceeded(f"{self._url} was not ready within {timeout_s:g} s") from None


@dataclass(frozen=True)
class Received:
    """The body of a reply."""

    body: bytes
    content_type: str | None


@dataclass(frozen=True)
class RawReply:
    """A reply of any status."""

    status: int
    content_type: str | None
    body: bytes
    sent_at: float | None = None
    """Seconds since the epoch at the server, by its `Date` header; whole seconds."""


class _Retried(Exception):
    """A failure worth a retry; the caller gets `error` if all retries fail."""

    def __init__(self, error: PreceptorError, *, answered: bool) -> None:
        super().__init__(error.detail)
        self.error = error
        self.answered = answered


async def _rendered(body: BaseModel, media_type: str) -> bytes:
    """Rendering a frame copies arrays, which takes less time than a switch of threads."""
    if media_type == wire.FRAME:
        return wire.render(body, media_type)
    return await asyncio.to_thread(wire.render, body, media_type)


def _lower(headers: Mapping[str, str] | None) -> dict[str, str]:
    return {name.lower(): value for name, value in (headers or {}).items()}


async def _read(headers: Mapping[str, str], chunks: AsyncIterator[bytes], max_bytes: int) -> bytes:
    """The body; never holds more than `max_bytes` of it.

    Raises:
        ServiceFailed: it is encoded, though only plain bytes were requested: a small encoded body
            may unpack to any size.
        TooLarge: it is longer.
    """
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise ServiceFailed(f"the reply is encoded as {encoding[:40]!r}, which was not requested")
    parts: list[bytes] = []
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > max_bytes:
            raise TooLarge(f"the reply is over {max_bytes} bytes")
        parts.append(chunk)
    return b"".join(parts)


def _error_of(reply: _Reply, what: str) -> PreceptorError:
    """The typed error of an unsuccessful reply, for any body."""
    status, body = reply.status, reply.body
    media_type = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
    problem = None
    if media_type.endswith("json"):
        try:
            problem = ProblemDetails.model_validate_json(body)
        except ValidationError:
            problem = None
    words = _foreign_words(body)
    if problem is None:
        problem = ProblemDetails(detail=words or f"{what} answered {status} without details")
    elif words is not None and not problem.detail:
        problem = problem.model_copy(update={"detail": words})
    if "status" not in problem.model_fields_set:
        problem = problem.model_copy(update={"status": status})
    error = from_problem(problem)
    if error.retry_after_s is None:
        error.retry_after_s = _retry_after_s(reply.headers.get("retry-after"))
    return error


def _foreign_words(body: bytes) -> str | None:
    """The text of an OpenAI-compatible API's error: `message`, or `error.message`."""
    try:
        found: Any = json.loads(body)
    except ValueError:
        return None
    outer = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
    inner = outer.get("error")
    for part in (outer, cast("dict[str, Any]", inner) if isinstance(inner, dict) else {}):
        message = part.get("message")
        if isinstance(message, str) and message:
            return message[:500]
    return None


def _epoch_s(value: str | None) -> float | None:
    """Seconds since the epoch of an HTTP date."""
    try:
        return None if value is None else parsedate_to_datetime(value[:_MOST_WORDS]).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def _retry_after_s(value: str | None) -> float | None:
    """Seconds of a `Retry-After` header, which gives a number or a date."""
    if value is None:
        return None
    words = value.strip()[:_MOST_WORDS]
    if words.isascii() and words.isdecimal():
        return bounded_seconds(float(words))
    try:
        return bounded_seconds((parsedate_to_datetime(words) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None
