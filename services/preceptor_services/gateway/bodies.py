"""Request bodies and replies in either rendering, and never more of a body than the limit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from fastapi import Request, Response
from pydantic import BaseModel

from preceptor_clients import wire
from preceptor_clients.frame import Limits

_OFF_LOOP_BYTES: Final = 64 << 10
M = TypeVar("M", bound=BaseModel)


def body_of(cls: type[M]) -> Callable[[Request], Awaitable[M]]:
    """A dependency that reads a `cls` from the body, as its `Content-Type` says."""

    async def read(request: Request) -> M:
        body = await request.body()
        media_type = request.headers.get("content-type")
        # A small compressed body may claim to be huge; what it may become is bounded as well.
        limits = Limits(body_bytes=request.app.state.gateway.settings.gateway.max_body_bytes)
        if len(body) < _OFF_LOOP_BYTES:
            return wire.parse(cls, body, media_type, limits=limits)
        return await asyncio.to_thread(wire.parse, cls, body, media_type, limits=limits)

    return read


async def reply(request: Request, message: BaseModel) -> Response:
    """`message` as the caller's `Accept` asks for it."""
    media_type, exact, compress = wire.accepted(request.headers.get("accept"))
    body = await asyncio.to_thread(wire.render, message, media_type, exact=exact, compress=compress)
    return Response(body, media_type=media_type)
