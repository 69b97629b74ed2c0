"""Pure ASGI middleware of the gateway.

`BodyLimit` refuses bodies over the limit while they arrive, with `Content-Length` or chunked.
`CountRequests` counts requests by route and status, measures the time to the reply, and gives each
request its id (`X-Request-ID`).
"""

from __future__ import annotations

import logging
import time

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from preceptor_clients.contract.errors import PreceptorError, TooLarge, UnsupportedMediaType
from preceptor_clients.kit import request_ids, tracing
from preceptor_clients.sdk.asgi import header
from preceptor_services.gateway.http.problems import problem_response
from preceptor_services.kit.metrics import Metrics

_log = logging.getLogger("preceptor.gateway")


class OverLimit(Exception):
    """The body went over the limit while the application read it."""


class BodyLimit:
    """Refuses bodies of more than `max_bytes`."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        error = self.announced(scope)
        if error is not None:
            await problem_response(error, Request(scope).url.path)(scope, receive, send)
            return
        started = False

        async def note_start(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, self.counted(receive), note_start)
        except OverLimit:
            if started:
                raise
            response = problem_response(self.too_large(), Request(scope).url.path)
            await response(scope, receive, send)

    def announced(self, scope: Scope) -> PreceptorError | None:
        """Why the headers alone rule the body out."""
        encoding = header(scope, "content-encoding")
        if encoding not in (None, "identity"):
            return UnsupportedMediaType(
                f"send the body without content encoding, not as {encoding}",
                field="content-encoding",
            )
        length = header(scope, "content-length")
        if length is not None and length.isdigit() and int(length) > self._max_bytes:
            return self.too_large()
        return None

    def counted(self, receive: Receive) -> Receive:
        """`receive`, which raises `OverLimit` as soon as the body is over the limit."""
        seen = 0

        async def read() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_bytes:
                raise OverLimit
            return message

        return read

    def too_large(self) -> TooLarge:
        """The problem of such a body."""
        return TooLarge(f"the body is over {self._max_bytes} bytes", field="body")


class CountRequests:
    """Counts the requests of an application and their duration."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        request_id = request_ids.received(header(scope, request_ids.HEADER))
        scope[request_ids.SCOPE_KEY] = request_id
        started = False

        async def note(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                named = (request_ids.HEADER.encode(), request_id.encode())
                message["headers"] = [*message["headers"], named]
                self._count(scope, message["status"], time.monotonic() - began)
            await send(message)

        with request_ids.serving(request_id):
            try:
                if tracing.is_on():
                    with tracing.span(f"{scope['method']} {scope['path']}"):
                        await self._app(scope, receive, note)
                else:
                    await self._app(scope, receive, note)
            except Exception:
                # The framework's outermost layer, outside this one, sends the reply.
                if not started:
                    self._count(scope, 500, time.monotonic() - began)
                raise

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        # The route's pattern, not the path: ids in paths would make endless metric series.
        route = getattr(scope.get("route"), "path", "unknown")
        self._metrics.requests.labels(scope["method"], route, status).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        level = logging.WARNING if status >= 500 and route != "/readyz" else logging.DEBUG
        if _log.isEnabledFor(level):
            words = "%s %s: %d after %.1f ms"
            _log.log(level, words, scope["method"], scope["path"], status, seconds * 1000)
