"""Serves one service: takes its jobs, calls in micro-batches, reports, acknowledges.

    take or reclaim -> claim at the gateway -> plan calls -> call -> check -> report -> acknowledge

One loop forms the calls and starts each as soon as the service has room for it; the calls run
beside it, in `calls.py`. The gateway counts failures and deliveries, and gives jobs up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from preceptor_clients.contract.errors import PreceptorError
from preceptor_clients.contract.schemas import ServiceInfo
from preceptor_clients.http.gateway import GatewayClient
from preceptor_clients.http.service import ServiceClient
from preceptor_services.dispatcher.ask import Asker
from preceptor_services.dispatcher.batching import plan_calls
from preceptor_services.dispatcher.breaker import Breaker
from preceptor_services.dispatcher.calls import STOPPING, Calls
from preceptor_services.dispatcher.leases import Leases
from preceptor_services.dispatcher.reporting import HeldJob, Reporter
from preceptor_services.jobs.streams import Delivery, JobStreams

_BLOCK_S: Final = 0.5
_LINGER_S: Final = 0.003
"""How long the first job of an idle service waits for further jobs, if some came lately."""
_INFO_AGE_S: Final = 20.0
_INFO_TIMEOUT_S: Final = 5.0
_RETRY_S: Final = 0.5
_log = logging.getLogger("preceptor.dispatcher")


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """Leases and timeouts of a dispatcher."""

    lease_s: float = 10.0
    """A job that was not renewed for this time may be reclaimed."""
    max_call_s: float = 600.0
    """Longest call of a service, independent of deadlines."""
    grace_s: float = 10.0
    """How long running calls may take after `stop`."""

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
        queue: JobStreams,
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
        self._leases = Leases(queue, dispatcher, config.lease_s)
        self._reporter = Reporter(gateway, self._leases, dispatcher)
        self._breaker = Breaker()
        self._calls = Calls(
            service=service,
            asker=Asker(client, gateway),
            leases=self._leases,
            reporter=self._reporter,
            breaker=self._breaker,
            max_call_s=config.max_call_s,
        )
        self._info: ServiceInfo | None = None
        self._info_at = 0.0
        self._answers = True
        self._reclaimed_at = 0.0
        self._company = True
        """Whether the last jobs came together, or while others were asked."""
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Serves until `stop`, then finishes or returns the held jobs."""
        renewing = asyncio.create_task(self._leases.renew_forever())
        try:
            while not self._stopping.is_set():
                await self._round()
        finally:
            await self._calls.finish(self._config.grace_s)
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)

    def stop(self) -> None:
        """Takes no more jobs; `run` returns when nothing is held."""
        self._stopping.set()
        self._calls.freed.set()

    def cancel(self, job_id: str) -> None:
        """Cancels a job."""
        self._calls.cancel(job_id)

    async def _round(self) -> None:
        try:
            info = await self._until_callable()
            if info is None or not await self._until_gateway_ready():
                return
            deliveries = await self._next_deliveries(info)
            if deliveries:
                await self._dispatch(await self._claim(deliveries))
        except PreceptorError as error:
            # The broker is unavailable. Jobs that were taken stay held or are reclaimed.
            _log.warning("%s: %s", self._service, error.detail)
            await self._pause(_RETRY_S)

    async def _until_callable(self) -> ServiceInfo | None:
        """The service's info, once it may be called again; None when stopping."""
        while not self._stopping.is_set():
            await self._until_slot()
            await self._pause(self._breaker.pause_s())
            fresh = time.monotonic() - self._info_at < _INFO_AGE_S
            if self._info is not None and fresh and self._breaker.failures == 0:
                return self._info
            if await self._hear_info():
                return self._info
            # `/v1/info` costs a service nothing, so it is requested without a growing pause.
            await self._pause(_RETRY_S)
        return None

    async def _until_gateway_ready(self) -> bool:
        """Waits until jobs can be claimed and reported; False when stopping.

        Other dispatchers may have another gateway, which can serve the jobs meanwhile.
        """
        while not self._stopping.is_set():
            if await self._reporter.gateway_ready():
                return True
            await self._pause(_RETRY_S)
        return False

    async def _hear_info(self) -> bool:
        """Requests the service's info; False if it does not answer, which is logged once."""
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
        """Waits until one more call may run; while the breaker is half open, one at a time."""
        while not self._stopping.is_set() and not self._calls.room(self._num_slots()):
            self._calls.freed.clear()
            await self._calls.freed.wait()

    def _num_slots(self) -> int:
        on_trial = self._info is None or self._breaker.failures > 0
        return 1 if on_trial or self._info is None else self._info.limits.max_concurrency

    async def _next_deliveries(self, info: ServiceInfo) -> list[Delivery]:
        reclaimed = await self._reclaim()
        if reclaimed:
            return reclaimed
        count = info.limits.max_batch if self._breaker.failures == 0 else 1
        deliveries = await self._take(count, min(_BLOCK_S, self._config.lease_s / 4))
        if not deliveries or any(d.exclusive for d in deliveries):
            return deliveries
        if self._calls.idle and self._company:
            # A lone caller asks one question after the other, and would wait each time for nothing.
            await asyncio.sleep(_LINGER_S)
            deliveries += await self._take(count, 0.0)
        self._company = len(deliveries) > 1 or not self._calls.idle
        return deliveries

    async def _reclaim(self) -> list[Delivery]:
        # One at a time: reclaimed jobs get their own call. Holding more of them than are called
        # would count an attempt for jobs that only wait.
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
        """The jobs that are still wanted; the others are acknowledged immediately."""
        by_job = {delivery.job_id: delivery for delivery in deliveries}
        try:
            claims = await self._reporter.claim(list(by_job))
        except PreceptorError as error:
            # The client has tried for long. A dispatcher of another gateway may reclaim the jobs.
            _log.warning("%s: jobs not claimed: %s", self._service, error.detail)
            self._leases.forget(deliveries)
            return []
        now = time.monotonic()
        jobs = [
            HeldJob(by_job[job.job_id], job, now + job.timeout_ms / 1000) for job in claims.jobs
        ]
        kept = [job.delivery for job in jobs]
        self._calls.unwanted.difference_update(claims.dropped)
        # Includes the entries of a job that is on the stream twice.
        await self._leases.done(delivery for delivery in deliveries if delivery not in kept)
        return jobs

    async def _dispatch(self, jobs: Sequence[HeldJob]) -> None:
        """Starts every call as soon as there is room for it."""
        assert self._info is not None, "the service's info is requested before its jobs are taken"
        for members in plan_calls(jobs, self._info.limits):
            info = await self._until_callable()
            if info is None:
                await self._reporter.give_back(members, STOPPING)
                continue
            await self._calls.start(members, info)

    async def _pause(self, seconds: float) -> None:
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._stopping.wait()
