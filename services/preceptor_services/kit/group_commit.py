"""Many callers, few transactions: calls that arrive during a transaction share the next one.

An idle gateway commits each request immediately in its own transaction. A busy one commits together
the requests that arrived in the meantime. No request waits for further ones.

Example:
    commit = GroupCommit(write_all)         # takes a list, gives a result or an error for each
    result = await commit(one)
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

from preceptor_clients.contract.errors import ServiceUnavailable

_MOST: Final = 64
"""Requests in one transaction."""

T = TypeVar("T")
R = TypeVar("R")


class GroupCommit(Generic[T, R]):
    """Collects calls and passes them to `run` in groups."""

    def __init__(self, run: Callable[[Sequence[T]], Awaitable[Sequence[R | Exception]]]) -> None:
        self._run = run
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._running: asyncio.Task[None] | None = None

    async def __call__(self, item: T) -> R:
        """The result of `item`; cancelling the call does not undo it."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._running is None:
            self._running = asyncio.create_task(self._run_all())
        return await future

    async def _run_all(self) -> None:
        try:
            while self._waiting:
                count = min(_MOST, len(self._waiting))
                await self._run_group([self._waiting.popleft() for _ in range(count)])
        finally:
            self._running = None

    async def _run_group(self, group: Sequence[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            results = await self._run([item for item, _ in group])
        except Exception as error:
            if len(group) == 1 or isinstance(error, ServiceUnavailable):
                # One after the other, each would wait for the same lock.
                for _, future in group:
                    _tell(future, error)
                return
            # One item caused the error. Each is run alone, so that only that one fails.
            for one in group:
                await self._run_group([one])
            return
        except BaseException:
            for _, future in group:
                future.cancel()
            raise
        for (_, future), result in zip(group, results, strict=True):
            _tell(future, result)


def _tell(future: asyncio.Future[R], result: R | Exception) -> None:
    if future.done():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
