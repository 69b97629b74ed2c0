"""HTTP serving for gateway and services: uvicorn, with limits that it lacks.

Its fast parser accepts headers of any size and number, and has no timeout for their end, so that a
few callers could block all others. Here a request's head has a largest size, a largest number of
lines and a timeout, and a body that stops arriving is refused. Left out: a smallest rate for
bodies, which honest callers would miss on a busy machine.
"""

from __future__ import annotations

import asyncio
import importlib
from typing import Any, Final

MAX_HEAD_BYTES: Final = 64 << 10
MAX_HEADERS: Final = 100
HEAD_S: Final = 10.0
"""From a connection, or the first byte of a further request, to the end of its head."""
BODY_IDLE_S: Final = 30.0
"""Between two pieces of a body."""


def http_protocol() -> Any:
    """The `http` argument of `uvicorn.Config`; `auto` if the fast parser is not installed."""
    try:
        module = importlib.import_module("uvicorn.protocols.http.httptools_impl")
    except ModuleNotFoundError:
        return "auto"
    return _bounded(module.HttpToolsProtocol)


def _bounded(base: Any) -> Any:
    class BoundedProtocol(base):
        """The base with bounds on what may arrive before an application sees it."""

        _timer: asyncio.TimerHandle | None = None
        _head: int | None = 0
        """Bytes of the head so far; None while a body or a reply is under way."""
        _num_headers = 0
        _body = False

        def connection_made(self, transport: Any) -> None:
            base.connection_made(self, transport)
            self._wait(HEAD_S)

        def connection_lost(self, exc: Exception | None) -> None:
            self._wait(None)
            base.connection_lost(self, exc)

        def data_received(self, data: bytes) -> None:
            if self._head is None and not self._body and self._idle():
                self._head, self._num_headers = 0, 0
                self._wait(HEAD_S)
            elif self._body:
                self._wait(BODY_IDLE_S)
            base.data_received(self, data)
            if self._head is not None:
                self._head += len(data)
                if self._head > MAX_HEAD_BYTES:
                    self._refuse(b"431 Request Header Fields Too Large")

        def on_message_begin(self) -> None:
            self._num_headers = 0
            base.on_message_begin(self)

        def on_header(self, name: bytes, value: bytes) -> None:
            self._num_headers += 1
            if self._num_headers > MAX_HEADERS or len(name) + len(value) > MAX_HEAD_BYTES:
                self._refuse(b"431 Request Header Fields Too Large")
                return
            base.on_header(self, name, value)

        def on_headers_complete(self) -> None:
            self._head, self._body = None, True
            self._wait(BODY_IDLE_S)
            if not self.transport.is_closing():
                base.on_headers_complete(self)

        def on_body(self, body: bytes) -> None:
            if self.cycle is not None:
                base.on_body(self, body)

        def on_message_complete(self) -> None:
            self._body = False
            self._wait(None)
            if self.cycle is not None:
                base.on_message_complete(self)

        def _idle(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

        def _wait(self, seconds: float | None) -> None:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = None if seconds is None else self.loop.call_later(seconds, self._late)

        def _late(self) -> None:
            if self._body and self.flow is not None and self.flow.read_paused:
                # The server itself has paused reading, so the caller is not late.
                self._wait(BODY_IDLE_S)
                return
            self._refuse(b"408 Request Timeout")

        def _refuse(self, status: bytes) -> None:
            if self.transport.is_closing():
                return
            if self._idle():
                words = b"HTTP/1.1 %s\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % status
                self.transport.write(words)
            self.transport.close()

    return BoundedProtocol
