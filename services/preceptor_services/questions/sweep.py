"""Background work: deadlines, and jobs that the broker has lost.

Deadlines: the sweeper sleeps until the next one, and fails the tickets that have passed it.

Lost jobs: SQL is authoritative, and every job that is unfinished in SQL must be on the stream. A
job whose `put` failed is put again. If the stream of a service is shorter than the number of jobs
in SQL twice in a row, the broker has lost entries, and it is not known which: every job that was
not put or claimed recently is put again. A duplicate at worst repeats a computation, since only the
last claim may report.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

from preceptor_clients.contract.errors import Cancelled, DeadlineExceeded, NotFound, PreceptorError
from preceptor_services.jobs.queue import JobQueue, announce_cancel
from preceptor_services.kit.clock import Clock
from preceptor_services.questions.notifier import Notifier
from preceptor_services.questions.put import put_jobs
from preceptor_services.questions.settle import fail_questions
from preceptor_services.store.database import Database
from preceptor_services.store.questions import answers, jobs, tickets
from preceptor_services.store.questions.tickets import Settled

_log = logging.getLogger("preceptor.gateway")
_IDLE_S: Final = 1.0
_RECONCILE_S: Final = 2.0
_FRESH_S: Final = 2.0
_LEASE_S: Final = 30.0
_NEVER: Final = float("inf")


class Sweeper:
    """Fails tickets past their deadline and puts lost jobs again."""

    def __init__(
        self, database: Database, queue: JobQueue, notifier: Notifier, clock: Clock
    ) -> None:
        self._database = database
        self._queue = queue
        self._notifier = notifier
        self._clock = clock
        self._next_deadline = _NEVER
        self._sooner = asyncio.Event()
        self._short: set[str] = set()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begins."""
        self._next_deadline = 0.0
        for name, work in (("sweep", self._sweep_when_due), ("reconcile", self._reconcile_later)):
            self._tasks.append(asyncio.create_task(_forever(name, work), name=name))

    async def stop(self) -> None:
        """Ends; nothing is left half done."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def expect(self, deadlines: Iterable[float]) -> None:
        """Adds deadlines; the sweeper wakes for the earliest."""
        earliest = min(deadlines, default=_NEVER)
        if earliest < self._next_deadline:
            self._next_deadline = earliest
            self._sooner.set()

    async def _sweep_when_due(self) -> None:
        left_s = self._next_deadline - self._clock.now()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, min(left_s, _IDLE_S))):
                await self._sooner.wait()
        self._sooner.clear()
        if self._clock.now() >= self._next_deadline:
            await self.sweep()

    async def sweep(self) -> None:
        """Fails every ticket past its deadline."""
        problem = DeadlineExceeded("no answer arrived before the deadline").problem()
        document = problem.model_dump(mode="json", exclude_none=True)
        async with self._database.write() as conn:
            over = await tickets.expire(conn, self._clock.now(), document)
            affected = await answers.abandon(conn, [t.answer_key for t in over], document)
            unwanted = await jobs.drop_unwanted(conn, list(affected))
            following = await tickets.next_deadline(conn)
        self._next_deadline = _NEVER if following is None else following
        await self._tell(over, unwanted)

    async def cancel(self, ticket_id: str) -> None:
        """Cancels one ticket, and its question if no other ticket waits for it."""
        document = (
            Cancelled("every ticket of the question was cancelled")
            .problem()
            .model_dump(mode="json")
        )
        async with self._database.write() as conn:
            cancelled = await tickets.cancel(conn, ticket_id)
            affected = await answers.abandon(conn, [t.answer_key for t in cancelled], document)
            unwanted = await jobs.drop_unwanted(conn, list(affected))
        await self._tell(cancelled, unwanted)

    async def give_up(self, service: str) -> None:
        """Fails every open question to a removed service."""
        problem = NotFound(f"{service} was removed", field="expert").problem()
        async with self._database.write() as conn:
            open_jobs = await answers.open_questions(conn, service)
            settled = await fail_questions(conn, dict.fromkeys(open_jobs, problem))
            job_ids = {job_id for job_id in open_jobs.values() if job_id is not None}
            unwanted = await jobs.drop_unwanted(conn, list(job_ids))
        await self._tell(settled, unwanted)

    async def _tell(self, settled: Sequence[Settled], unwanted: Sequence[str]) -> None:
        self._notifier.notify(t.id for t in settled)
        await announce_cancel(self._queue, unwanted)

    async def _reconcile_later(self) -> None:
        await self.reconcile()
        await self._hear_deadlines()
        await self._database.copy_log()
        await asyncio.sleep(_RECONCILE_S)

    async def _hear_deadlines(self) -> None:
        """Reads the next deadline: another gateway process may end before it has swept its own."""
        if self._database.may_be_shared:
            async with self._database.read() as conn:
                following = await tickets.next_deadline(conn)
            self.expect([] if following is None else [following])

    async def reconcile(self) -> None:
        """Puts jobs again that are missing on the stream."""
        now = self._clock.now()
        async with self._database.read() as conn:
            missing = bool(await jobs.never_put(conn))
            standing = await jobs.count_standing(conn, now - _FRESH_S)
        try:
            depths = {service: await self._queue.depth(service) for service in standing}
        except PreceptorError:
            return  # The broker is down: there is nothing to compare with.
        short = {service for service, depth in depths.items() if depth < standing[service]}
        if short:
            # Counted again: jobs that ended meanwhile have left the stream.
            async with self._database.read() as conn:
                standing = await jobs.count_standing(conn, now - _FRESH_S)
            short = {service for service in short if depths[service] < standing.get(service, 0)}
        lost, self._short = short & self._short, short
        if missing or lost:
            await self._put_again(sorted(lost), now)

    async def _put_again(self, lost: Sequence[str], now: float) -> None:
        # Marked before they are put, so that no other gateway process puts them too.
        async with self._database.write() as conn:
            missing = await jobs.never_put(conn)
            for service in lost:
                missing += await jobs.perhaps_lost(conn, service, now - _FRESH_S, now - _LEASE_S)
            await jobs.mark_put(conn, [job.id for job in missing], now)
        if not missing:
            return
        refused = await put_jobs(self._queue, missing)
        _log.warning("%d jobs put again", len(missing) - len(refused))
        if refused:
            async with self._database.write() as conn:
                await jobs.mark_put(conn, refused, None)


async def _forever(name: str, work: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await work()
        except Exception:
            # The error boundary of a background task: it must survive an unavailable database.
            _log.exception("%s failed", name)
            await asyncio.sleep(_IDLE_S)
