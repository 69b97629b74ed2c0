"""Request bodies and replies in either rendering, and never more of a body than the limit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from fastapi import Request, Response
from pydantic import BaseModel

from preceptor_clients import wire
from preceptor_clients.errors import PROBLEM_MEDIA_TYPE, Problem
from preceptor_clients.frame import Limits

_OFF_LOOP_BYTES: Final = 64 << 10
M = TypeVar("M", bound=BaseModel)

PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    "default": {
        "model": Problem,
        "description": "Problem details (RFC 9457) that name the field at fault.",
        "content": {PROBLEM_MEDIA_TYPE: {}},
    }
}
"""For every route: each 4xx and 5xx has this one schema."""


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


def takes(cls: type[BaseModel]) -> dict[str, Any]:
    """What the route's page says of its body."""
    schema = cls.model_json_schema()
    return {
        "requestBody": {
            "required": True,
            "content": {
                wire.JSON: {"schema": schema},
                wire.FRAME: {"schema": {"type": "string", "format": "binary"}},
            },
        }
    }


async def reply(request: Request, message: BaseModel) -> Response:
    """`message` as the caller's `Accept` asks for it."""
    media_type, exact, compress = wire.accepted(request.headers.get("accept"))
    body = await asyncio.to_thread(wire.render, message, media_type, exact=exact, compress=compress)
    return Response(body, media_type=media_type)
