"""Other gateway processes on the same database and broker: who waits at one hears of the others.

A ticket may be settled by the report that another process received. Each process announces the
tickets that it settles, and wakes its own requests when others do. An announcement may be lost, as
when the broker restarts, so the tickets that requests wait for are also read from the database
regularly. Only used with a database that several processes may share: not with SQLite.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from preceptor_clients.contract.errors import PreceptorError
from preceptor_services.jobs.queue import JobQueue
from preceptor_services.questions.notifier import Notifier
from preceptor_services.store.database import Database
from preceptor_services.store.questions import tickets

_LOOK_S: Final = 1.0
_AGAIN_S: Final = 1.0
_MOST_IDS: Final = 500
_log = logging.getLogger("preceptor.gateway")


class Neighbours:
    """Tells other processes of settled tickets, and hears from them."""

    def __init__(self, database: Database, queue: JobQueue, notifier: Notifier) -> None:
        self._database = database
        self._queue = queue
        self._notifier = notifier
        self._settled: list[str] = []
        self._some = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begins, if the database may be shared."""
        if not self._database.may_be_shared:
            return
        self._notifier.on_settled = self.tell
        for name, work in (("tell", self._tell), ("hear", self._hear), ("look", self._look)):
            self._tasks.append(asyncio.create_task(_forever(name, work), name=f"{name} others"))

    async def stop(self) -> None:
        """Ends."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def tell(self, ticket_ids: Iterable[str]) -> None:
        """Announces tickets soon, off the way of the report that settled them."""
        self._settled += ticket_ids
        if self._settled:
            self._some.set()

    async def _tell(self) -> None:
        await self._some.wait()
        self._some.clear()
        ids, self._settled = self._settled, []
        for start in range(0, len(ids), _MOST_IDS):
            await self._queue.announce_settled(ids[start : start + _MOST_IDS])

    async def _hear(self) -> None:
        async for ticket_id in self._queue.settled():
            self._notifier.wake([ticket_id])

    async def _look(self) -> None:
        await asyncio.sleep(_LOOK_S)
        ids = self._notifier.awaited()
        for start in range(0, len(ids), _MOST_IDS):
            async with self._database.read() as conn:
                some = ids[start : start + _MOST_IDS]
                self._notifier.wake(await tickets.settled_among(conn, some))


async def _forever(name: str, work: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await work()
        except PreceptorError as error:
            _log.warning("other gateway processes (%s): %s", name, error.detail)
            await asyncio.sleep(_AGAIN_S)
        except Exception:
            # The error boundary of a background task.
            _log.exception("other gateway processes (%s) failed", name)
            await asyncio.sleep(_AGAIN_S)
