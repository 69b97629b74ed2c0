"""Callers wait until there is room for their answers; first come, first served.

The engine itself bounds forward passes and logits, one call at a time. Many concurrent callers
could still exhaust the memory with finished entries that wait to be sent.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


class Admission:
    """A capacity; a caller that needs more than is free waits behind earlier callers."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._used = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def capacity(self) -> int:
        """Most that one caller may ask for."""
        return self._capacity

    @property
    def num_waiting(self) -> int:
        """Number of callers that wait for room."""
        return len(self._waiting)

    @asynccontextmanager
    async def room(self, size: int) -> AsyncGenerator[None]:
        """Holds `size` while the body runs.

        Raises:
            ValueError: `size` is over the capacity; the caller would wait for ever.
        """
        if size > self._capacity:
            raise ValueError(f"size: {size} is over the capacity of {self._capacity}")
        await self._enter(size)
        try:
            yield
        finally:
            self._used -= size
            self._wake()

    async def _enter(self, size: int) -> None:
        if not self._waiting and self._used + size <= self._capacity:
            self._used += size
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, place))
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._used -= size  # room was given just as the caller was cancelled
            else:
                self._waiting.remove((size, place))
            self._wake()
            raise

    def _wake(self) -> None:
        while self._waiting and self._used + self._waiting[0][0] <= self._capacity:
            size, place = self._waiting.popleft()
            self._used += size
            place.set_result(None)
