"""Pure ASGI middleware: counts requests by route and status, and the time to the reply."""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from preceptor_services.gateway.metrics import Metrics


class Counting:
    """Wraps an application."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()

        async def note(message: Message) -> None:
            if message["type"] == "http.response.start":
                # The route's pattern, not its path: a path has ids in it, and metrics no end.
                route = getattr(scope.get("route"), "path", "unknown")
                self._metrics.requests.labels(scope["method"], route, message["status"]).inc()
                self._metrics.seconds.labels(route).observe(time.monotonic() - began)
            await send(message)

        await self._app(scope, receive, note)
