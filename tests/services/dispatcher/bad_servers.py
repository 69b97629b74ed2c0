"""Experts that introduce themselves well, and whose every answer fails in one way."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from functools import partial

from dispatch_parts import bare_server
from moody import Moody

_INFO = Moody(log="/dev/null").info().model_dump_json().encode()
_JSON = "application/json"


def bad_server(fault: str) -> AbstractAsyncContextManager[str]:
    """The URL of an expert that `hangs`, `trickles` a byte a second, or is `half-open`.

    A half-open connection takes what is sent and never says anything, not even that it ends.
    """
    return bare_server(partial(_answer, fault))


async def _answer(fault: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    request = await reader.readuntil(b"\r\n\r\n")
    if request.startswith(b"GET"):
        writer.write(_head(len(_INFO)) + _INFO)
        await writer.drain()
        return
    if fault == "half-open":
        # Nothing is read and nothing is written: to the caller the other end is gone.
        await asyncio.sleep(3600)
    writer.write(_head(1000))
    while fault == "trickles" and not writer.is_closing():
        writer.write(b"{")
        await writer.drain()
        await asyncio.sleep(1.0)
    await asyncio.sleep(3600)


def _head(length: int) -> bytes:
    kind = f"content-type: {_JSON}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
    return b"HTTP/1.1 200 OK\r\n" + kind.encode()
