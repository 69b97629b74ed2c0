"""Receives the reports of dispatchers.

One report has all jobs of one call of a service, and is one blob and one transaction. Each job is
accepted or refused separately: a job with a stale fence or invalid results does not affect the
others. Questions without a result fail. A report that is sent again changes nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from preceptor_clients.contract.errors import (
    DispatcherStopped,
    Invalid,
    NotFound,
    ProblemDetails,
    ServiceFailed,
    StaleFence,
    from_problem,
)
from preceptor_clients.contract.schemas import PrefixAnswer
from preceptor_services.jobs.messages import (
    ItemResult,
    JobReport,
    RefusedReport,
    ReportReply,
    ReportRequest,
)
from preceptor_services.jobs.queue import MAX_FAILURES, JobQueue
from preceptor_services.kit.array_blobs import Written
from preceptor_services.kit.clock import Clock
from preceptor_services.kit.metrics import Metrics
from preceptor_services.questions.accept import Acceptance, Evidence, accept
from preceptor_services.questions.answer_blobs import AnswerBlobs
from preceptor_services.questions.notifier import Notifier
from preceptor_services.questions.put import put_jobs
from preceptor_services.questions.settle import document, write_acceptance
from preceptor_services.registry.services import Registry
from preceptor_services.store.database import Connection, Database
from preceptor_services.store.provenance import feedback
from preceptor_services.store.questions import answers, jobs, tickets
from preceptor_services.store.questions.jobs import JobRow

_NO_REASON = ServiceFailed("no reason was given").problem()


@dataclass(frozen=True, kw_only=True)
class JobReports:
    """Serves the reports of dispatchers."""

    database: Database
    queue: JobQueue
    answer_blobs: AnswerBlobs
    registry: Registry
    notifier: Notifier
    clock: Clock
    metrics: Metrics

    async def report(self, request: ReportRequest) -> ReportReply:
        """Stores the results of a call; returns its refused jobs."""
        # Written before the fences are checked: stale reports are rare, and an unused blob is
        # harmless.
        pack = await self._write_pack([r for report in request.jobs for r in report.results])
        now = self.clock.now()
        async with self.database.write() as conn:
            rows = await jobs.find(conn, [report.job_id for report in request.jobs])
            held, refused = _sort_out(request.jobs, rows)
            evidence = await self._evidence(conn, held, pack, now, request.latency_ms)
            acceptance = Acceptance()
            taken = _accept_all(acceptance, evidence, held, rows, refused)
            given_back = [report.job_id for report in taken if not report.final]
            failures = await jobs.count_failures(conn, given_back) if given_back else {}
            ends = [_end(report, failures.get(report.job_id, 0)) for report in taken]
            for report, (job_id, state, _) in zip(taken, ends, strict=True):
                if state != "queued":
                    acceptance.fail(
                        evidence.pending([job_id]), _silence(report, request.dispatcher)
                    )
            settled = await write_acceptance(conn, acceptance, pack, now)
            await jobs.set_states(conn, ends)
            await jobs.end_attempts(conn, [_ended(report, request, now) for report in taken])
            again = [rows[job_id] for job_id, state, _ in ends if state == "queued"]
            if again:
                await tickets.mark_queued(conn, evidence.pending(job.id for job in again))
        self._observe(request, taken, rows, now)
        self._count_answers(acceptance, evidence, taken)
        self._count_jobs(ends, rows)
        self.notifier.notify(ticket.id for ticket in settled)
        await self._put_again(again, now)
        return ReportReply(
            refused=tuple(RefusedReport(job_id=i, problem=p) for i, p in refused.items())
        )

    async def _write_pack(self, results: Sequence[ItemResult]) -> Written | None:
        entries = {r.answer_key: r.prefix for r in results if r.prefix is not None}
        return await self.answer_blobs.write(entries) if entries else None

    async def _evidence(
        self,
        conn: Connection,
        held: Sequence[JobReport],
        pack: Written | None,
        now: float,
        latency_ms: float,
    ) -> Evidence:
        results = [result for report in held for result in report.results]
        keys = [result.answer_key for result in results]
        return Evidence(
            states=await answers.find_with_jobs(conn, keys, [report.job_id for report in held]),
            visible_items=await visible_items(conn, results),
            pack_sha256=None if pack is None else pack.sha256,
            names=self.registry.names_of,
            late_s=self.registry.late_s,
            cost=self.registry.cost,
            latency_ms=latency_ms,
            now=now,
        )

    async def _put_again(self, given_back: Sequence[JobRow], now: float) -> None:
        if not given_back:
            return
        refused = set(await put_jobs(self.queue, given_back))
        async with self.database.write() as conn:
            await jobs.mark_put(conn, [j.id for j in given_back if j.id not in refused], now)

    def _observe(
        self,
        request: ReportRequest,
        taken: Sequence[JobReport],
        rows: Mapping[str, JobRow],
        now: float,
    ) -> None:
        final = [report for report in taken if report.final]
        if not final:
            return
        m, service = self.metrics, rows[final[0].job_id].service
        m.call_questions.labels(service).observe(sum(len(report.results) for report in final))
        m.call_tokens.labels(service).observe(sum(rows[r.job_id].num_tokens for r in final))
        m.call_seconds.labels(service).observe(request.latency_ms / 1000)
        for report in final:
            put_at = rows[report.job_id].put_at
            if put_at is not None:
                m.job_seconds.labels(service).observe(now - put_at)

    def _count_answers(
        self, acceptance: Acceptance, evidence: Evidence, taken: Sequence[JobReport]
    ) -> None:
        self.metrics.count_answers(acceptance.tally(evidence.states))
        for key, problem in acceptance.failed.items():
            service = evidence.states[key].service
            self.metrics.count_refusal(service, "answer", from_problem(problem))
        costs: defaultdict[str, float] = defaultdict(float)
        for key, values in acceptance.done.items():
            costs[evidence.states[key].service] += values["cost"]
        for service, cost in costs.items():
            self.metrics.cost.labels(service).inc(cost)
        prefixes: defaultdict[str, list[PrefixAnswer]] = defaultdict(list[PrefixAnswer])
        for result in (result for report in taken for result in report.results):
            if result.prefix is not None and result.answer_key in acceptance.done:
                prefixes[evidence.states[result.answer_key].service].append(result.prefix)
        for service, answers_of_it in prefixes.items():
            self.metrics.count_prefixes(service, answers_of_it)

    def _count_jobs(
        self, ends: Sequence[tuple[str, str, object]], rows: Mapping[str, JobRow]
    ) -> None:
        for job_id, state, _ in ends:
            self.metrics.jobs.labels(rows[job_id].service, state).inc()


async def visible_items(conn: Connection, results: Iterable[ItemResult]) -> frozenset[str]:
    """Those that count among the feedback items that answers name."""
    ids = {item for r in results if r.prefix is not None for item in r.prefix.used_feedback}
    found = await feedback.find(conn, ids) if ids else {}
    return frozenset(row.id for row in found.values() if row.state == "standing")


def _sort_out(
    reports: Sequence[JobReport], rows: Mapping[str, JobRow]
) -> tuple[list[JobReport], dict[str, ProblemDetails]]:
    """Reports of jobs that the reporter holds, and the problem of each other job."""
    held: dict[str, JobReport] = {}
    refused: dict[str, ProblemDetails] = {}
    for report in reports:
        job = rows.get(report.job_id)
        if job is None:
            error = NotFound(f"no job {report.job_id}", field="job_id")
            refused[report.job_id] = error.problem()
        elif job.fence != report.fence:
            stale = f"job {job.id} is {job.state} under fence {job.fence}, not {report.fence}"
            refused[job.id] = StaleFence(stale, field="fence").problem()
        elif job.state == "running":
            # A job that is named twice ends once, with the first of its reports.
            held.setdefault(job.id, report)
        # Else this report was heard before and its reply was lost: any other end would have
        # increased the fence. Refused, the job would stay on the stream for a lease.
    return list(held.values()), refused


def _accept_all(
    acceptance: Acceptance,
    evidence: Evidence,
    held: Sequence[JobReport],
    rows: Mapping[str, JobRow],
    refused: dict[str, ProblemDetails],
) -> list[JobReport]:
    """The accepted reports; adds those with invalid results to `refused`."""
    taken: list[JobReport] = []
    for report in held:
        try:
            if report.final:
                accept(acceptance, evidence, rows[report.job_id].service, report.results)
            taken.append(report)
        except Invalid as error:
            refused[report.job_id] = error.problem()
    return taken


def _end(report: JobReport, failures: int) -> tuple[str, str, dict[str, Any] | None]:
    """The job, its new state (done, queued again or dead) and the reason.

    Args:
        report: An accepted one.
        failures: Of this job, before this report.
    """
    if report.final:
        return report.job_id, "done", None
    dead = failures + 1 >= MAX_FAILURES and _outcome(report) == jobs.GIVEN_BACK
    return report.job_id, "dead" if dead else "queued", document(report.reason or _NO_REASON)


def _outcome(report: JobReport) -> str:
    """How the delivery ended."""
    if report.final:
        return "done"
    reason = report.reason or _NO_REASON
    return "stopped" if reason.code == DispatcherStopped.code else jobs.GIVEN_BACK


def _silence(report: JobReport, dispatcher: str) -> ProblemDetails:
    """The problem of questions of an ended job that have no result."""
    if not report.final:
        return report.reason or _NO_REASON
    return ServiceFailed(f"dispatcher {dispatcher} reported no result").problem()


def _ended(report: JobReport, request: ReportRequest, now: float) -> dict[str, Any]:
    return {
        "job_id": report.job_id,
        "fence": report.fence,
        "ended_at": now,
        "outcome": _outcome(report),
        "latency_ms": request.latency_ms,
        "reason": None if report.reason is None else document(report.reason),
    }
