"""Callers wait until there is room for their answers; first come, first served.

Forward passes and logits are bounded by the engine itself, one call at a time. What many callers
at once could still exhaust is what they leave behind: entries that wait to be sent.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


class Admission:
    """So much room; who asks for more than is free waits behind those who came before."""

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
        """Callers without room."""
        return len(self._waiting)

    @asynccontextmanager
    async def room(self, size: int) -> AsyncGenerator[None]:
        """Holds `size` while the body runs.

        Raises:
            ValueError: More than the capacity: it would wait for ever.
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
                self._used -= size  # room was given in the moment in which the caller left
            else:
                self._waiting.remove((size, place))
            self._wake()
            raise

    def _wake(self) -> None:
        while self._waiting and self._used + self._waiting[0][0] <= self._capacity:
            size, place = self._waiting.popleft()
            self._used += size
            place.set_result(None)
