"""The bare baseline of the answer path: an ASGI application that does nothing.

    uvicorn bare_server:echo

`POST /` replies with the body that came; `POST /N` replies with N bytes that are always the same.
"""

from __future__ import annotations

from typing import Any

_HEADERS = [(b"content-type", b"application/octet-stream")]
_REPLIES: dict[str, bytes] = {}


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """The application."""
    if scope["type"] != "http":
        return
    body = b""
    while True:
        event = await receive()
        body += event.get("body", b"")
        if not event.get("more_body", False):
            break
    size = scope["path"][1:]
    if size:
        body = _REPLIES.setdefault(size, bytes(int(size)))
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [*_HEADERS, length]})
    await send({"type": "http.response.body", "body": body})
