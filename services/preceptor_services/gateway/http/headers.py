"""Headers of every reply, and the check of the contract's version, as pure ASGI middleware.

The headers tell browsers to run, frame, guess and store nothing of what the gateway sends. Routes
with a page of their own set others.
"""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from preceptor_clients.contract.errors import IncompatibleVersion
from preceptor_clients.contract.version import CONTRACT, HEADER, check_contract
from preceptor_clients.sdk.asgi import header
from preceptor_services.gateway.http.problems import problem_response

STRICT: Final = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    HEADER: CONTRACT,
}
_STRICT: Final = [(name.encode(), value.encode()) for name, value in STRICT.items()]


class StrictHeaders:
    """Adds the headers that a reply lacks, and refuses callers of another contract."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def complete(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message["headers"]}
                added = [pair for pair in _STRICT if pair[0] not in present]
                message["headers"] = [*message["headers"], *added]
            await send(message)

        try:
            check_contract(header(scope, HEADER), "the caller")
        except IncompatibleVersion as error:
            reply = problem_response(error, Request(scope).url.path)
            await reply(scope, receive, complete)
            return
        await self._app(scope, receive, complete)
