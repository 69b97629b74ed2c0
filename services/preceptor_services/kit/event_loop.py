"""The event loop and the allocator of gateway and dispatcher.

uvloop's sockets and timers cost half as much. The C library gives each thread a heap of its own,
which keeps what the large bodies of answers once took; two heaps are enough for processes in which
one thread runs at a time. Giving the memory of each body back to the system, as it does by default,
takes longer than reading the body, because the system clears every page that it hands out.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import importlib
import sys
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
"""The parameters' numbers in glibc's `malloc.h`."""
_FROM_HEAP_BYTES: Final = 32 << 20
"""Smaller blocks come from a heap, and not each from the system anew."""
_KEPT_BYTES: Final = 32 << 20
"""A heap keeps so much that is free at its end for the next bodies."""
_MOST_HEAPS: Final = 2


def run_process(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, on uvloop where it is installed; on Windows it is not."""
    _limit_heaps()
    with asyncio.Runner(loop_factory=_fast_loop()) as runner:
        return runner.run(main)


def _fast_loop() -> Any:
    try:
        return importlib.import_module("uvloop").new_event_loop
    except ModuleNotFoundError:
        return None


def _limit_heaps() -> None:
    if sys.platform == "linux":
        # Other C libraries have no such function, and no such heaps.
        with contextlib.suppress(AttributeError, OSError):
            library = ctypes.CDLL(None)
            library.mallopt(_M_ARENA_MAX, _MOST_HEAPS)
            library.mallopt(_M_MMAP_THRESHOLD, _FROM_HEAP_BYTES)
            library.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
