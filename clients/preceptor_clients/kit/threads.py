"""Runs work on bytes in a thread, but only where it takes longer than the switch of threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

_FEW_BYTES: Final = 64 << 10
"""Reading this many bytes takes less time than switching to a thread and back."""
P = ParamSpec("P")
R = TypeVar("R")


async def on_bytes(num_bytes: int, work: Callable[P, R], *args: P.args, **options: P.kwargs) -> R:
    """The result of `work`, which reads that many bytes: run directly, or in a thread."""
    if num_bytes < _FEW_BYTES:
        return work(*args, **options)
    return await asyncio.to_thread(work, *args, **options)
