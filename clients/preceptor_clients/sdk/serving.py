"""HTTP serving for gateway and services: uvicorn, with limits that it lacks.

Its fast parser accepts headers of any size and number, and has no timeout for their end, so that a
few callers could block all others. Here a request's head has a largest size, a largest number of
lines and a timeout, and a body must arrive at a smallest rate. Time in which this server itself did
not read does not count: neither while it has paused the caller, nor while its loop was blocked.
"""

from __future__ import annotations

import asyncio
import importlib
from typing import Any, Final

from preceptor_clients.contract.errors import HeadTooLarge, PreceptorError, RequestTimeout
from preceptor_clients.sdk.asgi import problem_reply

MAX_HEAD_BYTES: Final = 64 << 10
MAX_HEADERS: Final = 100
HEAD_S: Final = 10.0
"""From a connection, or the first byte of a further request, to the end of its head."""
BODY_WINDOW_S: Final = 30.0
LEAST_BODY_BYTES: Final = 64 << 10
"""In each window a body ends, or at least this much of it arrives."""
_SECOND_LOOK_S: Final = 0.25
"""A loop that was blocked runs its timers before it reads what has arrived meanwhile."""
LINGER_S: Final = 2.0
"""How long a refused caller may go on sending. The kernel answers bytes for a closed socket with a
reset, which takes the refusal away from a caller that has not read it yet."""
_SLOW_HEAD: Final = RequestTimeout(f"no whole request head came within {HEAD_S:g} seconds")
_SLOW_BODY: Final = RequestTimeout(
    f"the body came too slowly: within {BODY_WINDOW_S:g} seconds neither its end nor "
    f"{LEAST_BODY_BYTES} bytes of it"
)
_TOO_LARGE: Final = HeadTooLarge(
    f"a request's head has at most {MAX_HEAD_BYTES} bytes and {MAX_HEADERS} headers"
)


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
        _arrived = 0
        """Bytes of the body in the window so far."""
        _excused = False
        """Whether reading was paused when the window began."""
        _head: int | None = 0
        """Bytes of the head so far; None while a body or a reply is under way."""
        _num_headers = 0
        _body = False
        _refused = False
        """Whether what still arrives is dropped."""

        def connection_made(self, transport: Any) -> None:
            base.connection_made(self, transport)
            self._wait(HEAD_S)

        def connection_lost(self, exc: Exception | None) -> None:
            self._wait(None)
            base.connection_lost(self, exc)

        def data_received(self, data: bytes) -> None:
            if self._refused:
                return
            if self._head is None and not self._body and self._idle():
                self._head, self._num_headers = 0, 0
                self._wait(HEAD_S)
            elif self._body:
                self._arrived += len(data)
            base.data_received(self, data)
            if self._head is not None and not self._refused:
                self._head += len(data)
                if self._head > MAX_HEAD_BYTES:
                    self._refuse(_TOO_LARGE)

        def on_message_begin(self) -> None:
            self._num_headers = 0
            base.on_message_begin(self)

        def on_header(self, name: bytes, value: bytes) -> None:
            self._num_headers += 1
            if self._num_headers > MAX_HEADERS or len(name) + len(value) > MAX_HEAD_BYTES:
                self._refuse(_TOO_LARGE)
                return
            base.on_header(self, name, value)

        def on_headers_complete(self) -> None:
            if self._refused:
                return
            self._head, self._body = None, True
            self._open_window()
            if not self.transport.is_closing():
                base.on_headers_complete(self)

        def on_body(self, body: bytes) -> None:
            if self.cycle is not None and not self._refused:
                base.on_body(self, body)

        def on_message_complete(self) -> None:
            if self._refused:
                return
            self._body = False
            self._wait(None)
            if self.cycle is not None:
                base.on_message_complete(self)

        def send_400_response(self, msg: str) -> None:
            # The parser reads its piece to the end, also after a refusal, and may find a fault.
            if not self._refused:
                base.send_400_response(self, msg)

        def _idle(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

        def _wait(self, seconds: float | None) -> None:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = None if seconds is None else self.loop.call_later(seconds, self._late)

        def _open_window(self) -> None:
            self._arrived = 0
            self._excused = self.flow.read_paused
            self._wait(BODY_WINDOW_S)

        def _late(self) -> None:
            self._timer = self.loop.call_later(_SECOND_LOOK_S, self._too_late)

        def _too_late(self) -> None:
            if not self._body:
                self._refuse(_SLOW_HEAD)
            elif self._excused or self.flow.read_paused or self._arrived >= LEAST_BODY_BYTES:
                self._open_window()
            else:
                self._refuse(_SLOW_BODY)

        def _refuse(self, error: PreceptorError) -> None:
            if self._refused or self.transport.is_closing():
                return
            self._refused = True
            may_answer = self._may_answer()
            if may_answer:
                self.transport.write(_rendered(error))
            # TLS has no end of one direction alone.
            if not (may_answer and self.transport.can_write_eof()):
                self.transport.close()
                return
            if self.cycle is not None:
                self.cycle.disconnected = True
                self.cycle.waiting_for_100_continue = False
                self.cycle.message_event.set()
            self.transport.write_eof()
            self._wait(None)
            self._timer = self.loop.call_later(LINGER_S, self.transport.close)

        def _may_answer(self) -> bool:
            """Whether no reply is under way, which a second one would corrupt."""
            return self._idle() or not (self.cycle.response_started or self.pipeline)

    return BoundedProtocol


def _rendered(error: PreceptorError) -> bytes:
    reply = problem_reply(error)
    head = (
        f"HTTP/1.1 {reply.status} {error.title}\r\ncontent-type: {reply.media_type}\r\n"
        f"content-length: {len(reply.body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + reply.body
