"""Waiting for a server that is still loading its model."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from preceptor_clients.contract.errors import DeadlineExceeded, ServiceUnavailable

T = TypeVar("T")
_PAUSE_S: Final = 1.0


async def when_there(work: Callable[[], Awaitable[T]], timeout_s: float) -> T:
    """The result of `work`, retried while the server is unreachable or busy.

    Raises:
        DeadlineExceeded: the timeout passed; the message has the last reason.
    """
    last: ServiceUnavailable | None = None
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    return await work()
                except ServiceUnavailable as error:
                    last = error
                await asyncio.sleep(_PAUSE_S)
    except TimeoutError:
        why = "" if last is None else f": {last.detail}"
        raise DeadlineExceeded(f"the server did not answer within {timeout_s:g} s{why}") from last
