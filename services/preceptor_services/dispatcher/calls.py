"""The running calls of one service, and the reports of their jobs.

Each call is a task beside the loop that forms them: call, report, acknowledge. A call whose jobs
are all cancelled is aborted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from preceptor_clients.contract.errors import (
    DeadlineExceeded,
    DispatcherStopped,
    PreceptorError,
    ServiceFailed,
)
from preceptor_clients.contract.schemas import ServiceInfo
from preceptor_clients.kit import request_ids, tracing
from preceptor_services.dispatcher.ask import Asker
from preceptor_services.dispatcher.breaker import Breaker
from preceptor_services.dispatcher.leases import Leases
from preceptor_services.dispatcher.reporting import HeldJob, Reporter
from preceptor_services.jobs.messages import ItemResult
from preceptor_services.jobs.roles import question_of_kind

STOPPING: Final = DispatcherStopped("the dispatcher is stopping").problem()
_TOO_LATE: Final = DeadlineExceeded("the deadline passed before the service was called").problem()
_log = logging.getLogger("preceptor.dispatcher")


@dataclass(kw_only=True)
class Calls:
    """Runs the calls of held jobs."""

    service: str
    asker: Asker
    leases: Leases
    reporter: Reporter
    breaker: Breaker
    max_call_s: float
    freed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set whenever there may be more room."""
    unwanted: set[str] = field(default_factory=set[str])
    """Held jobs that were cancelled."""
    _asking: dict[asyncio.Task[list[ItemResult]], Sequence[HeldJob]] = field(
        default_factory=dict[asyncio.Task[list[ItemResult]], Sequence[HeldJob]]
    )
    _serving: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])

    @property
    def idle(self) -> bool:
        """Whether no call is running."""
        return not self._asking

    def room(self, num_slots: int) -> bool:
        """Whether one more call may run, with at most `num_slots` at a time.

        At most `num_slots` finished calls may wait for their report to the gateway. So a slow
        gateway slows down the calls, and a dispatcher that crashes loses no more results than
        these.
        """
        return len(self._asking) < num_slots and len(self._serving) < 2 * num_slots

    async def start(self, jobs: Sequence[HeldJob], info: ServiceInfo) -> None:
        """Starts a call."""
        task = asyncio.create_task(self._serve(jobs, info))
        self._serving.add(task)
        task.add_done_callback(self._served)
        # Lets the call count itself before the next one looks for room.
        await asyncio.sleep(0)

    def cancel(self, job_id: str) -> None:
        """Cancels a job; a call whose jobs are all cancelled is aborted.

        Aborting it closes the connection, which tells the service.
        """
        if not self.leases.holds(job_id):
            return
        self.unwanted.add(job_id)
        for call, jobs in self._asking.items():
            if self.unwanted.issuperset(job.job_id for job in jobs):
                call.cancel()

    async def finish(self, grace_s: float) -> None:
        """Lets calls end within the grace period, then aborts them and returns their jobs."""
        if self._serving:
            await asyncio.wait(self._serving, timeout=grace_s)
        for call in self._asking:
            call.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, jobs: Sequence[HeldJob], info: ServiceInfo) -> None:
        try:
            unwanted = [job for job in jobs if job.job_id in self.unwanted]
            await self.leases.done(job.delivery for job in unwanted)
            now = time.monotonic()
            late = [job for job in jobs if job not in unwanted and job.expires_at <= now]
            await self.reporter.give_back(late, _TOO_LATE)
            wanted = [job for job in jobs if job not in unwanted and job not in late]
            if wanted:
                await self._call(wanted, info)
        finally:
            # In every case, so that no job stays held for ever.
            self.leases.forget(job.delivery for job in jobs)
            self.unwanted.difference_update(job.job_id for job in jobs)

    def _served(self, task: asyncio.Task[None]) -> None:
        self._serving.discard(task)
        self.freed.set()
        if not task.cancelled() and task.exception() is not None:
            # The error boundary of a call: its jobs are reclaimed later, other calls continue.
            _log.error(
                "%s: a call ended with an unexpected error", self.service, exc_info=task.exception()
            )

    async def _call(self, jobs: Sequence[HeldJob], info: ServiceInfo) -> None:
        ids = request_ids.joined(job.claimed.request_id for job in jobs)
        with request_ids.serving(ids), tracing.span(f"call {self.service}", jobs=len(jobs)):
            await self._call_and_settle(jobs, info)

    async def _call_and_settle(self, jobs: Sequence[HeldJob], info: ServiceInfo) -> None:
        items = [item for job in jobs for item in job.claimed.items]
        started_at = time.monotonic()
        left_s = max(job.expires_at for job in jobs) - started_at
        timeout_s = min(self.max_call_s, left_s)
        question = question_of_kind(jobs[0].claimed.kind)
        asking = self.asker.ask(question, items, info.capabilities, timeout_s=timeout_s)
        call = asyncio.create_task(asking)
        self._asking[call] = jobs
        try:
            await asyncio.wait({call})
        finally:
            call.cancel()
            del self._asking[call]
            self.freed.set()
        latency_ms = (time.monotonic() - started_at) * 1000
        _log.debug(
            "%s: %d questions of %d jobs after %.1f ms",
            *(self.service, len(items), len(jobs), latency_ms),
        )
        await self._settle(jobs, call, latency_ms)

    async def _settle(
        self, jobs: Sequence[HeldJob], call: asyncio.Task[list[ItemResult]], latency_ms: float
    ) -> None:
        if call.cancelled():
            gone = [job for job in jobs if job.job_id in self.unwanted]
            await self.leases.done(job.delivery for job in gone)
            left = [job for job in jobs if job not in gone]
            await self.reporter.give_back(left, STOPPING, latency_ms)
            return
        error = call.exception()
        if error is None:
            self.breaker.succeeded()
            await self.reporter.report_all(jobs, call.result(), latency_ms)
            return
        if not isinstance(error, PreceptorError):
            _log.error("%s: the call raised an unexpected error", self.service, exc_info=error)
            error = ServiceFailed(f"the dispatcher failed: {type(error).__name__}: {error}")
        await self._settle_failure(jobs, error, latency_ms)

    async def _settle_failure(
        self, jobs: Sequence[HeldJob], error: PreceptorError, latency_ms: float
    ) -> None:
        _log.warning("%s: a call failed: %s", self.service, error.detail)
        refused = error.blames_request
        if not refused:
            self.breaker.failed()
        if refused and len(jobs) == 1:
            # The call had one question: calling again with it alone would fail again.
            problems = [
                ItemResult(answer_key=item.answer_key, problem=error.problem())
                for item in jobs[0].claimed.items
            ]
            await self.reporter.report_all(jobs, problems, latency_ms)
        else:
            await self.reporter.give_back(jobs, error.problem(), latency_ms)
