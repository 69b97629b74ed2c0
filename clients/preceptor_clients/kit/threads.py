"""Work on bytes in a thread, but only where it is worth the way there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

_FEW_BYTES: Final = 64 << 10
"""Reading so many takes less time than a switch of threads and back."""
P = ParamSpec("P")
R = TypeVar("R")


async def on_bytes(num_bytes: int, work: Callable[P, R], *args: P.args, **options: P.kwargs) -> R:
    """The result of `work`, which reads so many bytes: here and now, or in a thread."""
    if num_bytes < _FEW_BYTES:
        return work(*args, **options)
    return await asyncio.to_thread(work, *args, **options)
