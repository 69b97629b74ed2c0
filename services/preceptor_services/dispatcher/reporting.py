"""Claims jobs at the gateway and reports what became of them.

Reporting comes before acknowledging: a job whose report was lost is delivered again, and its next
claim finds it done.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from preceptor_clients.errors import (
    DeadlineExceeded,
    PreceptorError,
    Problem,
    ServiceFailed,
    ServiceUnavailable,
    StaleFence,
)
from preceptor_clients.http import GatewayClient
from preceptor_services.dispatcher.leases import Leases
from preceptor_services.internal import (
    ClaimedJob,
    ClaimRequest,
    Claims,
    ItemResult,
    ReportRequest,
)
from preceptor_services.queue import Delivery

_REPORT_TIMEOUT_S: Final = 60.0
_log = logging.getLogger("preceptor.dispatcher")


@dataclass(frozen=True, eq=False)
class HeldJob:
    """A claimed job and its entry on the stream."""

    delivery: Delivery
    claimed: ClaimedJob
    expires_at: float
    """Monotonic time at which its last deadline passes."""

    @property
    def job_id(self) -> str:
        """The gateway's id of it."""
        return self.claimed.job_id

    @property
    def num_items(self) -> int:
        """Questions in it."""
        return len(self.claimed.items)

    @property
    def num_tokens(self) -> int:
        """As the gateway counted."""
        return self.delivery.tokens

    @property
    def alone(self) -> bool:
        """A job that comes for the second time may be poison, and takes no neighbours down."""
        return self.claimed.exclusive or self.claimed.fence > 1 or self.delivery.deliveries > 1


class Reporter:
    """One dispatcher's word with the gateway, for one service."""

    def __init__(self, gateway: GatewayClient, leases: Leases, dispatcher: str) -> None:
        self._gateway = gateway
        self._leases = leases
        self._dispatcher = dispatcher

    async def claim(self, job_ids: Sequence[str]) -> Claims:
        """Makes jobs ours, or learns that nobody wants them any more."""
        request = ClaimRequest(dispatcher=self._dispatcher, job_ids=tuple(job_ids))
        return await self._gateway.call("POST", "/v1/internal/claims", body=request, reply=Claims)

    async def report_all(
        self, jobs: Sequence[HeldJob], results: Sequence[ItemResult], latency_ms: float
    ) -> None:
        """Reports the results of a call; they are those of its jobs, one after the other."""
        ends = [sum(job.num_items for job in jobs[: i + 1]) for i in range(len(jobs))]
        await asyncio.gather(
            *(
                self._report(job, tuple(results[end - job.num_items : end]), latency_ms)
                for job, end in zip(jobs, ends, strict=True)
            )
        )

    async def give_back(
        self, jobs: Sequence[HeldJob], reason: Problem, latency_ms: float = 0.0
    ) -> None:
        """Puts jobs back on the stream; the gateway gives up those that were there too often."""
        await asyncio.gather(*(self._report(job, (), latency_ms, reason) for job in jobs))

    async def _report(
        self,
        job: HeldJob,
        results: tuple[ItemResult, ...],
        latency_ms: float,
        reason: Problem | None = None,
    ) -> None:
        report = ReportRequest(
            dispatcher=self._dispatcher,
            job_id=job.job_id,
            fence=job.claimed.fence,
            results=results,
            latency_ms=latency_ms,
            final=reason is None,
            reason=reason,
        )
        try:
            await self._send(report)
        except StaleFence as error:
            # Another dispatcher holds the entry now, or its next claim finds that the job ended.
            _log.warning("%s: %s", job.claimed.service, error.detail)
            self._leases.forget([job.delivery])
        except (ServiceUnavailable, DeadlineExceeded) as error:
            _log.error("%s: results not reported: %s", job.claimed.service, error.detail)
            self._leases.forget([job.delivery])
        else:
            await self._leases.done([job.delivery])

    async def _send(self, report: ReportRequest) -> None:
        try:
            await self._post(report)
        except (StaleFence, ServiceUnavailable, DeadlineExceeded):
            raise
        except PreceptorError as error:
            _log.error("job %s: the gateway refused its results: %s", report.job_id, error.detail)
            refused = ServiceFailed(f"the gateway refused the results: {error.detail}").problem()
            problems = tuple(
                ItemResult(answer_key=result.answer_key, problem=refused)
                for result in report.results
            )
            await self._post(report.model_copy(update={"results": problems}))

    async def _post(self, report: ReportRequest) -> None:
        await self._gateway.call(
            "POST", "/v1/internal/reports", body=report, timeout_s=_REPORT_TIMEOUT_S
        )
