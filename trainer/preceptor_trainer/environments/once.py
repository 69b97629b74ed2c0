"""Something that is done once for all who wait for it, and again after it failed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Once(Generic[T]):
    """Those who ask at a time share one try and its failure; later ones try again."""

    def __init__(self, make: Callable[[], Awaitable[T]]) -> None:
        self._make = make
        self._task: asyncio.Task[T] | None = None

    async def __call__(self) -> T:
        """What `make` gave."""
        task = self._task
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._task = asyncio.create_task(self._made())
        return await asyncio.shield(task)

    async def stop(self) -> T | None:
        """Ends a try that goes on, so that nothing is made later; what was made, or None."""
        task, self._task = self._task, None
        if task is None:
            return None
        task.cancel()
        [made] = await asyncio.gather(task, return_exceptions=True)
        return None if isinstance(made, BaseException) else made

    async def _made(self) -> T:
        return await self._make()
