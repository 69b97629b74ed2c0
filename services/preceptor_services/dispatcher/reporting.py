"""Claims jobs at the gateway and reports their results.

A job is reported before it is acknowledged. If the acknowledgement is lost, the job is delivered
again, and its next claim finds it done.
"""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from preceptor_clients.contract import wire
from preceptor_clients.contract.errors import (
    NotFound,
    PreceptorError,
    ProblemDetails,
    ServiceFailed,
    StaleFence,
)
from preceptor_clients.http.gateway import GatewayClient
from preceptor_services.dispatcher.leases import Leases
from preceptor_services.jobs.messages import (
    ClaimedJob,
    ClaimedJobs,
    ClaimRequest,
    ItemResult,
    JobReport,
    ReportReply,
    ReportRequest,
)
from preceptor_services.jobs.streams import Delivery

_REPORT_TIMEOUT_S: Final = 60.0
_RESULT: Final = re.compile(r"\.results\[(\d+)\]")
_log = logging.getLogger("preceptor.dispatcher")


@dataclass(frozen=True, eq=False)
class HeldJob:
    """A claimed job and its stream entry."""

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
        """Number of questions in it."""
        return len(self.claimed.items)

    @property
    def num_tokens(self) -> int:
        """Tokens in it, as counted by the gateway."""
        return self.delivery.tokens

    @property
    def alone(self) -> bool:
        """Whether the job gets its own call: a job delivered again may have crashed the service."""
        return self.claimed.exclusive or self.claimed.fence > 1 or self.delivery.deliveries > 1


class Reporter:
    """Sends one dispatcher's claims and reports to the gateway, for one service."""

    def __init__(self, gateway: GatewayClient, leases: Leases, dispatcher: str) -> None:
        self._gateway = gateway
        self._leases = leases
        self._dispatcher = dispatcher
        self._failed = False
        """Whether the gateway failed at the last claim or report."""

    async def gateway_ready(self) -> bool:
        """Whether jobs may be taken: after a failure, only once the gateway is ready again."""
        if self._failed:
            self._failed = not await self._gateway.ready()
        return not self._failed

    async def claim(self, job_ids: Sequence[str]) -> ClaimedJobs:
        """Claims jobs; the reply lists those that are no longer wanted."""
        request = ClaimRequest(dispatcher=self._dispatcher, job_ids=tuple(job_ids))
        try:
            return await self._gateway.call(
                "POST", "/v1/internal/claims", body=request, reply=ClaimedJobs
            )
        except PreceptorError:
            self._failed = True
            raise

    async def report_all(
        self, jobs: Sequence[HeldJob], results: Sequence[ItemResult], latency_ms: float
    ) -> None:
        """Reports the results of a call, which are in the order of its jobs."""
        left = iter(results)
        reports = {
            job.job_id: JobReport(
                job_id=job.job_id,
                fence=job.claimed.fence,
                results=tuple(itertools.islice(left, job.num_items)),
            )
            for job in jobs
        }
        await self._report(jobs, reports, latency_ms)

    async def give_back(
        self, jobs: Sequence[HeldJob], reason: ProblemDetails, latency_ms: float = 0.0
    ) -> None:
        """Returns jobs to the stream; the gateway fails those that were delivered too often."""
        reports = {
            job.job_id: JobReport(
                job_id=job.job_id, fence=job.claimed.fence, final=False, reason=reason
            )
            for job in jobs
        }
        await self._report(jobs, reports, latency_ms)

    async def _report(
        self, jobs: Sequence[HeldJob], reports: Mapping[str, JobReport], latency_ms: float
    ) -> None:
        """Reports jobs in one request, and acknowledges those that have ended."""
        if not jobs:
            return
        service = jobs[0].claimed.service
        deliveries = {job.job_id: job.delivery for job in jobs}
        try:
            refused = await self._send(list(reports.values()), latency_ms)
        except PreceptorError as error:
            # An error of the gateway or its store, not of the answers: the jobs are delivered again
            # and reported then.
            _log.error("%s: results not reported: %s", service, error.detail)
            self._failed = True
            self._leases.forget(deliveries.values())
            return
        for job_id, problem in refused.items():
            # Another dispatcher holds the entry now, or the next claim finds that the job has
            # ended.
            _log.warning("%s: %s", service, problem.detail)
            self._leases.forget([deliveries[job_id]])
        await self._leases.done(
            delivery for job_id, delivery in deliveries.items() if job_id not in refused
        )

    async def _send(
        self, reports: Sequence[JobReport], latency_ms: float
    ) -> dict[str, ProblemDetails]:
        """Jobs with a stale fence; results that are refused for their content become problems."""
        try:
            refused = await self._post(reports, latency_ms)
        except PreceptorError as error:
            if not error.blames_request:
                raise
            # The whole report was refused, perhaps as too large; the job at fault is not known.
            refused = {report.job_id: error.problem() for report in reports}
        blamed = [r for r in reports if r.job_id in refused and not _is_stale(refused[r.job_id])]
        if not blamed:
            return refused
        for report in blamed:
            problem = refused.pop(report.job_id)
            _log.error("job %s: the gateway refused its report: %s", report.job_id, problem.detail)
            if len(reports) > 1:
                # The other jobs of the report may have caused the refusal.
                refused |= await self._send([report], latency_ms)
            else:
                refused |= await self._without_the_worst(report, problem, latency_ms)
        return refused

    async def _without_the_worst(
        self, report: JobReport, problem: ProblemDetails, latency_ms: float
    ) -> dict[str, ProblemDetails]:
        """Fails as few results as needed for the gateway to accept the report.

        First the result that the refusal names, then the largest: one result that is too large must
        not fail the others.
        """
        order = _worst_first(report, problem)
        for place in order[:-1]:
            report = _failed_at(report, place, problem)
            try:
                refused = await self._post([report], latency_ms)
            except PreceptorError as error:
                if not error.blames_request:
                    raise
                continue
            if all(_is_stale(one) for one in refused.values()):
                return refused
        # The refusal of a report without any answer is final.
        for place in order[-1:]:
            report = _failed_at(report, place, problem)
        return await self._post([report], latency_ms)

    async def _post(
        self, reports: Sequence[JobReport], latency_ms: float
    ) -> dict[str, ProblemDetails]:
        """Problems of the jobs whose report was refused."""
        request = ReportRequest(
            dispatcher=self._dispatcher, latency_ms=latency_ms, jobs=tuple(reports)
        )
        reply = await self._gateway.call(
            "POST",
            "/v1/internal/reports",
            body=request,
            reply=ReportReply,
            timeout_s=_REPORT_TIMEOUT_S,
        )
        return {refused.job_id: refused.problem for refused in reply.refused}


def _worst_first(report: JobReport, problem: ProblemDetails) -> list[int]:
    """Indices of the report's results: those that the refusal names first, then by size."""
    named = {int(place) for e in problem.errors for place in _RESULT.findall(e.field)}
    sizes = [len(wire.render(result)) for result in report.results]
    return sorted(range(len(sizes)), key=lambda place: (place not in named, -sizes[place]))


def _failed_at(report: JobReport, place: int, refused: ProblemDetails) -> JobReport:
    """The report with one result failed, so that its callers do not wait for it."""
    reason = ServiceFailed(f"the gateway refused the result: {refused.detail}").problem()
    results = list(report.results)
    results[place] = ItemResult(answer_key=results[place].answer_key, problem=reason)
    return report.model_copy(update={"results": tuple(results)})


def _is_stale(problem: ProblemDetails) -> bool:
    return problem.code in (StaleFence.code, NotFound.code)
