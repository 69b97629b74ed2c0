"""Work in a thread, but only where it is worth the way there.

Rendering or checking a few short messages takes less time than a switch of threads and back, which
on a busy machine costs milliseconds. What is long is kept off the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

ITEM: Final = 1 << 10
"""A message costs about as much as so many numbers in an array."""
UNKNOWN: Final = 1 << 62
_SMALL: Final = 8 * ITEM

P = ParamSpec("P")
R = TypeVar("R")


async def off_loop(size: int, work: Callable[P, R], *args: P.args, **options: P.kwargs) -> R:
    """The result of `work`, which is about `size` numbers long: here and now, or in a thread."""
    if size <= _SMALL:
        return work(*args, **options)
    return await asyncio.to_thread(work, *args, **options)
