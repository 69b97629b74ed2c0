"""Runs large work in a thread and small work directly.

Rendering or checking some short messages takes less time than switching to a thread and back,
which on a busy machine costs milliseconds. Work in Python that takes a millisecond or two is no
better placed in a thread: the interpreter lets a thread run for five before it gives another one a
turn, so the event loop waits all the same. Larger work is kept off the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

ITEM: Final = 1 << 8
"""Cost of one message, expressed as a number of array values."""
FRAME_ADVANTAGE: Final = 32
"""How much longer a number takes as JSON than in a frame, into which arrays are copied."""
UNKNOWN: Final = 1 << 62
_SMALL: Final = 128 * ITEM
"""About 2.5 milliseconds."""

P = ParamSpec("P")
R = TypeVar("R")


async def off_loop(size: int, work: Callable[P, R], *args: P.args, **options: P.kwargs) -> R:
    """The result of `work` on about `size` values, run directly or in a thread."""
    if size <= _SMALL:
        return work(*args, **options)
    return await asyncio.to_thread(work, *args, **options)
