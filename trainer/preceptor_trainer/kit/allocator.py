"""The C library's allocator: freed memory goes back to the system.

    release_freed_memory()

glibc keeps what is freed between two tensors that stay, in an arena for each thread that ever
allocated. The trainer's phases run in whichever thread of a pool is free, so that after a few
steps several arenas hold the activations of a whole update. Other C libraries have no such call.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any


def release_freed_memory() -> None:
    """Gives the pages that hold nothing back; tens of milliseconds after a large update."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], Any] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
