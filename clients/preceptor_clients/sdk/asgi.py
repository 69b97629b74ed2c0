"""The part of ASGI that the SDK needs: bodies within a limit, replies, disconnecting callers.

Written here because the SDK runs inside other engines' environments, which may have no server
framework. Left out: streaming replies, websockets, cookies, multipart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from preceptor_clients.contract.errors import PROBLEM_MEDIA_TYPE, PreceptorError, TooLarge
from preceptor_clients.contract.version import CONTRACT, HEADER

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

R = TypeVar("R")


class ClientGone(Exception):
    """The caller closed the connection; a reply would not be read."""


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes = b""
    media_type: str | None = None
    headers: dict[str, str] = field(default_factory=dict[str, str])


def problem_reply(error: PreceptorError) -> Reply:
    """`error` as problem details, with the headers that belong to its status."""
    headers: dict[str, str] = {}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, round(error.retry_after_s)))
    body = error.problem().model_dump_json(exclude_none=True).encode()
    return Reply(error.status, body, PROBLEM_MEDIA_TYPE, headers)


def header(scope: Scope, name: str) -> str | None:
    """The first header of this name, in lower case; Latin-1 as HTTP has it."""
    wanted = name.encode()
    return next((v.decode("latin-1") for k, v in scope["headers"] if k == wanted), None)


async def read_body(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    """The whole body.

    Raises:
        TooLarge: its actual or declared size is over `max_bytes`; no more than that is held.
        ClientGone: the caller disconnected before its end.
    """
    declared = header(scope, "content-length")
    if declared is not None and declared.isdigit() and int(declared) > max_bytes:
        raise TooLarge(f"the body has {declared} bytes, the limit is {max_bytes}", field="body")
    chunks: list[bytes] = []
    size = 0
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise ClientGone
        chunk: bytes = event.get("body", b"")
        size += len(chunk)
        if size > max_bytes:
            raise TooLarge(f"the body is over {max_bytes} bytes", field="body")
        chunks.append(chunk)
        if not event.get("more_body", False):
            return b"".join(chunks)


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, R]) -> R:
    """The result of `work`, which is cancelled when the caller disconnects.

    Raises:
        ClientGone: the caller disconnected first.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        # A disconnected caller cancels the work; a cancelled server cancels both tasks.
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def send_reply(send: Send, reply: Reply) -> None:
    """Sends all of `reply`."""
    headers = {"content-length": str(len(reply.body)), HEADER: CONTRACT, **reply.headers}
    if reply.media_type is not None:
        headers["content-type"] = reply.media_type
    await send(
        {
            "type": "http.response.start",
            "status": reply.status,
            "headers": [(k.encode(), v.encode("latin-1")) for k, v in headers.items()],
        }
    )
    await send({"type": "http.response.body", "body": reply.body})
