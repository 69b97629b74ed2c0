"""Serves one service: takes its jobs, asks in micro-batches, reports, acknowledges.

    take or reclaim -> claim at the gateway -> plan calls -> ask -> check -> report -> acknowledge

One loop forms the calls and starts each as soon as the service has room for it; the calls run
beside it. Attempts are counted by the gateway, which gives a job up after the third.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from preceptor_clients.errors import (
    DeadlineExceeded,
    PreceptorError,
    ServiceFailed,
    ServiceUnavailable,
)
from preceptor_clients.http import GatewayClient, ServiceClient
from preceptor_clients.schemas import ServiceInfo
from preceptor_services.dispatcher.asking import Asker
from preceptor_services.dispatcher.batching import plan_calls
from preceptor_services.dispatcher.breaker import Breaker
from preceptor_services.dispatcher.leases import Leases
from preceptor_services.dispatcher.reporting import HeldJob, Reporter
from preceptor_services.internal import Claims, ItemResult
from preceptor_services.queue import Delivery, JobQueue

_BLOCK_S: Final = 0.5
_LINGER_S: Final = 0.003
"""How long the first job of an idle service waits for company."""
_INFO_AGE_S: Final = 20.0
_INFO_TIMEOUT_S: Final = 5.0
_RETRY_S: Final = 0.5
_STOPPING: Final = ServiceUnavailable("the dispatcher is stopping").problem()
_TOO_LATE: Final = DeadlineExceeded("the deadline passed before it was asked").problem()
_log = logging.getLogger("preceptor.dispatcher")


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """How jobs are held."""

    lease_s: float = 10.0
    """A job that nobody has renewed for so long may be reclaimed."""
    max_call_s: float = 600.0
    """Longest call of a service, whatever the deadlines say."""
    grace_s: float = 10.0
    """How long calls may still run after the end was asked for."""

    def __post_init__(self) -> None:
        for field in ("lease_s", "max_call_s", "grace_s"):
            if getattr(self, field) <= 0:
                raise ValueError(f"{field}: {getattr(self, field)} is not positive")


class ServiceWorker:
    """The worker of one service in one dispatcher."""

    def __init__(
        self,
        service: str,
        *,
        queue: JobQueue,
        gateway: GatewayClient,
        client: ServiceClient,
        dispatcher: str,
        config: WorkerConfig,
    ) -> None:
        self._service = service
        self._queue = queue
        self._client = client
        self._dispatcher = dispatcher
        self._config = config
        self._asker = Asker(client, gateway)
        self._leases = Leases(queue, dispatcher, config.lease_s)
        self._reporter = Reporter(gateway, self._leases, dispatcher)
        self._breaker = Breaker()
        self._info: ServiceInfo | None = None
        self._info_at = 0.0
        self._answers = True
        self._reclaimed_at = 0.0
        self._calls: dict[asyncio.Task[list[ItemResult]], Sequence[HeldJob]] = {}
        self._serving: set[asyncio.Task[None]] = set()
        self._slot_freed = asyncio.Event()
        self._unwanted: set[str] = set()
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Serves until `stop`, then finishes or gives back what it holds."""
        renewing = asyncio.create_task(self._leases.renew_forever())
        try:
            while not self._stopping.is_set():
                await self._round()
        finally:
            await self._finish()
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)

    def stop(self) -> None:
        """Takes no more jobs; `run` returns when nothing is held."""
        self._stopping.set()
        self._slot_freed.set()

    def cancel(self, job_id: str) -> None:
        """Nobody wants this job any more; a call of which no job is wanted is broken off.

        Breaking it off closes the connection, by which the service learns of it.
        """
        if not self._leases.holds(job_id):
            return
        self._unwanted.add(job_id)
        for call, jobs in self._calls.items():
            if self._unwanted.issuperset(job.job_id for job in jobs):
                call.cancel()

    # ------------------------------------------------------------ forming calls

    async def _round(self) -> None:
        try:
            info = await self._until_callable()
            if info is None:
                return
            deliveries = await self._next_deliveries(info)
            if deliveries:
                await self._dispatch(await self._claim(deliveries))
        except ServiceUnavailable as error:
            # The broker is away. What was taken stays held, or is reclaimed.
            _log.warning("%s: %s", self._service, error.detail)
            await self._pause(_RETRY_S)

    async def _until_callable(self) -> ServiceInfo | None:
        """What the service says of itself, once it may be called again; None when stopping."""
        while not self._stopping.is_set():
            await self._until_slot()
            await self._pause(self._breaker.pause_s())
            fresh = time.monotonic() - self._info_at < _INFO_AGE_S
            if self._info is not None and fresh and self._breaker.failures == 0:
                return self._info
            if await self._hear_info():
                return self._info
            # Asking who it is costs a service nothing, so one that starts is not kept waiting.
            await self._pause(_RETRY_S)
        return None

    async def _hear_info(self) -> bool:
        """Asks the service who it is; False if it does not answer, which is logged once."""
        try:
            self._info = await self._client.info(timeout_s=_INFO_TIMEOUT_S)
        except PreceptorError as error:
            if self._answers:
                _log.warning("%s does not answer: %s", self._service, error.detail)
            self._answers = False
            return False
        if not self._answers:
            _log.info("%s answers", self._service)
        self._answers = True
        self._info_at = time.monotonic()
        return True

    async def _until_slot(self) -> None:
        """Waits until one more call may run; a service on trial gets one at a time.

        As many finished calls may be on their way to the gateway as may run: a gateway that is
        slower than the service holds it back, and a dispatcher that dies loses no more than that.
        """
        while not self._stopping.is_set() and (
            len(self._calls) >= self._num_slots() or len(self._serving) >= 2 * self._num_slots()
        ):
            self._slot_freed.clear()
            await self._slot_freed.wait()

    def _num_slots(self) -> int:
        on_trial = self._info is None or self._breaker.failures > 0
        return 1 if on_trial or self._info is None else self._info.limits.max_concurrency

    async def _next_deliveries(self, info: ServiceInfo) -> list[Delivery]:
        reclaimed = await self._reclaim()
        if reclaimed:
            return reclaimed
        count = info.limits.max_batch if self._breaker.failures == 0 else 1
        deliveries = await self._take(count, min(_BLOCK_S, self._config.lease_s / 4))
        if deliveries and not self._calls and not any(d.exclusive for d in deliveries):
            await asyncio.sleep(_LINGER_S)
            deliveries += await self._take(count, 0.0)
        return deliveries

    async def _reclaim(self) -> list[Delivery]:
        # One at a time: jobs that another dispatcher died with are asked alone, and holding more of
        # them than are asked would count an attempt against those that only wait.
        if time.monotonic() - self._reclaimed_at < self._config.lease_s / 4:
            return []
        found = await self._queue.reclaim(
            self._service, self._dispatcher, min_idle_s=self._config.lease_s, count=1
        )
        if not found:
            self._reclaimed_at = time.monotonic()
        self._leases.hold(found)
        return found

    async def _take(self, count: int, block_s: float) -> list[Delivery]:
        taken = await self._queue.take(
            self._service, self._dispatcher, count=count, block_s=block_s
        )
        self._leases.hold(taken)
        return taken

    async def _claim(self, deliveries: Sequence[Delivery]) -> list[HeldJob]:
        """The jobs that are still wanted; what is not is acknowledged at once."""
        by_job = {delivery.job_id: delivery for delivery in deliveries}
        claims = await self._claims(list(by_job))
        now = time.monotonic()
        jobs = [
            HeldJob(by_job[job.job_id], job, now + job.timeout_ms / 1000) for job in claims.jobs
        ]
        kept = [job.delivery for job in jobs]
        self._unwanted.difference_update(claims.dropped)
        # Also those of a job that stands on the stream twice.
        await self._leases.done(delivery for delivery in deliveries if delivery not in kept)
        return jobs

    async def _claims(self, job_ids: Sequence[str]) -> Claims:
        """Asks the gateway until it answers; meanwhile the jobs are renewed."""
        while True:
            try:
                return await self._reporter.claim(job_ids)
            except PreceptorError as error:
                _log.warning("%s: jobs not claimed: %s", self._service, error.detail)
                if self._stopping.is_set():
                    raise ServiceUnavailable(error.detail) from error
                await self._pause(_RETRY_S)

    async def _dispatch(self, jobs: Sequence[HeldJob]) -> None:
        """Starts every call as soon as there is room for it."""
        assert self._info is not None, "the service has been heard before its jobs are taken"
        for members in plan_calls(jobs, self._info.limits):
            info = await self._until_callable()
            if info is None:
                await self._reporter.give_back(members, _STOPPING)
                continue
            task = asyncio.create_task(self._serve(members, info))
            self._serving.add(task)
            task.add_done_callback(self._served)
            # Lets the call count itself before the next one looks for room.
            await asyncio.sleep(0)

    # ------------------------------------------------------------ one call

    async def _serve(self, jobs: Sequence[HeldJob], info: ServiceInfo) -> None:
        try:
            unwanted = [job for job in jobs if job.job_id in self._unwanted]
            await self._leases.done(job.delivery for job in unwanted)
            now = time.monotonic()
            late = [job for job in jobs if job not in unwanted and job.expires_at <= now]
            await self._reporter.give_back(late, _TOO_LATE)
            wanted = [job for job in jobs if job not in unwanted and job not in late]
            if wanted:
                await self._call(wanted, info)
        finally:
            # Whatever went wrong, nothing may stay held for ever.
            self._leases.forget(job.delivery for job in jobs)
            self._unwanted.difference_update(job.job_id for job in jobs)

    def _served(self, task: asyncio.Task[None]) -> None:
        self._serving.discard(task)
        self._slot_freed.set()
        if not task.cancelled() and task.exception() is not None:
            # The boundary of a call: its jobs are reclaimed, the others go on.
            _log.error("%s: a call was lost", self._service, exc_info=task.exception())

    async def _call(self, jobs: Sequence[HeldJob], info: ServiceInfo) -> None:
        items = [item for job in jobs for item in job.claimed.items]
        started_at = time.monotonic()
        left_s = max(job.expires_at for job in jobs) - started_at
        timeout_s = min(self._config.max_call_s, left_s)
        call = asyncio.create_task(self._asker.ask(items, info.capabilities, timeout_s=timeout_s))
        self._calls[call] = jobs
        try:
            await asyncio.wait({call})
        finally:
            call.cancel()
            del self._calls[call]
            self._slot_freed.set()
        await self._settle(jobs, call, (time.monotonic() - started_at) * 1000)

    async def _settle(
        self, jobs: Sequence[HeldJob], call: asyncio.Task[list[ItemResult]], latency_ms: float
    ) -> None:
        if call.cancelled():
            gone = [job for job in jobs if job.job_id in self._unwanted]
            await self._leases.done(job.delivery for job in gone)
            left = [job for job in jobs if job not in gone]
            await self._reporter.give_back(left, _STOPPING, latency_ms)
            return
        error = call.exception()
        if error is None:
            self._breaker.succeeded()
            await self._reporter.report_all(jobs, call.result(), latency_ms)
            return
        if not isinstance(error, PreceptorError):
            _log.error("%s: asking failed", self._service, exc_info=error)
            error = ServiceFailed(f"the dispatcher failed: {type(error).__name__}: {error}")
        await self._settle_failure(jobs, error, latency_ms)

    async def _settle_failure(
        self, jobs: Sequence[HeldJob], error: PreceptorError, latency_ms: float
    ) -> None:
        _log.warning("%s: a call failed: %s", self._service, error.detail)
        refused = 400 <= error.status < 500 and not error.retryable
        if not refused:
            self._breaker.failed()
        if refused and len(jobs) == 1:
            # Asking the same by itself again would give the same.
            problems = [
                ItemResult(answer_key=item.answer_key, problem=error.problem())
                for item in jobs[0].claimed.items
            ]
            await self._reporter.report_all(jobs, problems, latency_ms)
        else:
            await self._reporter.give_back(jobs, error.problem(), latency_ms)

    async def _finish(self) -> None:
        """Lets calls end within the grace, then breaks them off; their jobs are given back."""
        if self._serving:
            await asyncio.wait(self._serving, timeout=self._config.grace_s)
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _pause(self, seconds: float) -> None:
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._stopping.wait()
