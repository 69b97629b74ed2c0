"""One id that follows a request from the trainer through gateway, queue and dispatcher to experts.

It travels in the header `X-Request-ID`, and every log line written meanwhile has it. A call of an
expert may serve several requests; it has all their ids, joined by commas.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

HEADER: Final = "x-request-id"
SCOPE_KEY: Final = "preceptor.request_id"
"""Where a server keeps the id in the scope of a request."""
_MOST_JOINED: Final = 8
_ONE: Final = re.compile(r"[\w.:-]{1,64}", re.ASCII)
_SOME: Final = re.compile(rf"[\w.:,-]{{1,{_MOST_JOINED * 65}}}", re.ASCII)
_current: ContextVar[str | None] = ContextVar("request_id", default=None)


def current() -> str | None:
    """The id of the request that this task serves."""
    return _current.get()


def new() -> str:
    """A new id."""
    return uuid.uuid4().hex


def received(sent: str | None) -> str:
    """The id that a caller sent; a new one if it sent none, or none that may go into a log."""
    return sent if sent is not None and _ONE.fullmatch(sent) else new()


def received_joined(sent: str | None) -> str | None:
    """The ids of a dispatcher's call, if it sent any that may go into a log."""
    return sent if sent is not None and _SOME.fullmatch(sent) else None


def joined(ids: Iterable[str | None]) -> str | None:
    """The different ids of one call, the first few of them."""
    known = list(dict.fromkeys(i for i in ids if i))
    return ",".join(known[:_MOST_JOINED]) or None


@contextmanager
def serving(request_id: str | None) -> Generator[None]:
    """Log lines and calls within the block belong to this request."""
    token = _current.set(request_id)
    try:
        yield
    finally:
        _current.reset(token)
