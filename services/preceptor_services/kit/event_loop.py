"""The event loop and the allocator of gateway and dispatcher.

uvloop's sockets and timers cost half as much. The C library gives each thread a heap of its own,
which keeps what the large bodies of answers once took; two heaps are enough for processes in which
one thread runs at a time.
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
_M_ARENA_MAX: Final = -8
"""The parameter's number in glibc's `malloc.h`."""
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
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _MOST_HEAPS)
