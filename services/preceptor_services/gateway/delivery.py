"""Hands jobs to dispatchers and takes their results: the other side of `internal.py`.

Each claim raises the job's fence, and only the last claimant may report. Results of one job are
stored in one transaction, after their pack is written; what the dispatcher says nothing about
fails.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import JsonValue
from sqlalchemy.ext.asyncio import AsyncConnection

from preceptor_clients.checks import check_answer
from preceptor_clients.errors import (
    AnswerRefused,
    Conflict,
    Invalid,
    NotFound,
    PreceptorError,
    Problem,
    ServiceFailed,
    StaleFence,
)
from preceptor_clients.schemas import FeedbackQuery, PrefixAnswer, PrefixQuery
from preceptor_services.blobs import BlobDamaged, BlobStore
from preceptor_services.gateway.clock import Clock
from preceptor_services.gateway.job_queue import JobQueue, put_jobs
from preceptor_services.gateway.metrics import Metrics
from preceptor_services.gateway.notifier import Notifier
from preceptor_services.gateway.packs import Packs, Written
from preceptor_services.gateway.questions import unpack_query
from preceptor_services.gateway.registry import Registry
from preceptor_services.gateway.results import (
    answer_values,
    feedback_values,
    item_rows,
    used_rows,
)
from preceptor_services.internal import (
    ClaimedItem,
    ClaimedJob,
    ClaimRequest,
    Claims,
    ItemResult,
    JobKind,
    ReportRequest,
)
from preceptor_services.store import answers, feedback, jobs, services, tickets
from preceptor_services.store.answers import AnswerState, WantedQuestion
from preceptor_services.store.database import Database
from preceptor_services.store.jobs import JobRow
from preceptor_services.store.tickets import Settled

MAX_DELIVERIES: Final = 3
_log = logging.getLogger("preceptor.gateway")


@dataclass(kw_only=True)
class _Outcome:
    """What one report comes to."""

    done: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    items: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    used: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    promised: list[str] = field(default_factory=list[str])
    failed: dict[str, Problem] = field(default_factory=dict[str, Problem])


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """Serves dispatchers, and experts that answer late."""

    database: Database
    queue: JobQueue
    blobs: BlobStore
    packs: Packs
    registry: Registry
    notifier: Notifier
    clock: Clock
    metrics: Metrics

    # ------------------------------------------------------------ out

    async def claim(self, request: ClaimRequest) -> Claims:
        """Gives jobs to a dispatcher."""
        now = self.clock.now()
        ids = list(dict.fromkeys(request.job_ids))
        async with self.database.write() as conn:
            claimed = await jobs.claim(conn, ids, now)
            settled = [
                ticket
                for job in claimed
                if job.attempts > MAX_DELIVERIES
                for ticket in await _bury(conn, job, _gave_up(job))
            ]
            alive = {job.id: job for job in claimed if job.attempts <= MAX_DELIVERIES}
            wanted = await answers.wanted(conn, list(alive), now)
            given = {question.job_id for question in wanted}
            await jobs.drop_unwanted(conn, [job_id for job_id in alive if job_id not in given])
            await jobs.add_attempts(
                conn, [_attempt_row(alive[i], request.dispatcher, now) for i in sorted(given)]
            )
            await tickets.mark_running(conn, [question.answer_key for question in wanted])
        self.notifier.notify(ticket.id for ticket in settled)
        return Claims(
            jobs=tuple(
                [
                    await self._claimed_job(alive[i], [q for q in wanted if q.job_id == i], now)
                    for i in ids
                    if i in given
                ]
            ),
            dropped=tuple(i for i in ids if i not in given),
        )

    async def _claimed_job(
        self, job: JobRow, questions: Sequence[WantedQuestion], now: float
    ) -> ClaimedJob:
        kind: JobKind = "logprobs" if job.kind == "logprobs" else "feedback"
        left_s = max(question.deadline_at for question in questions) - now
        return ClaimedJob(
            job_id=job.id,
            service=job.service,
            kind=kind,
            fence=job.fence,
            timeout_ms=max(1, int(left_s * 1000)),
            exclusive=job.exclusive,
            items=tuple([await self._claimed_item(kind, question) for question in questions]),
        )

    async def _claimed_item(self, kind: JobKind, question: WantedQuestion) -> ClaimedItem:
        query = unpack_query(kind, question.frame)
        if isinstance(query, PrefixQuery):
            return ClaimedItem(answer_key=question.answer_key, prefix=query)
        filled = query.model_copy(update={"payload": await self._payload(query)})
        return ClaimedItem(answer_key=question.answer_key, feedback=filled)

    async def _payload(self, query: FeedbackQuery) -> JsonValue:
        try:
            return json.loads(await self.blobs.get(query.payload_sha256))
        except (NotFound, BlobDamaged, ValueError) as error:
            # One lost blob must not hold up the other jobs; the source says what it misses.
            _log.error("payload of %s is lost: %s", query.rollout_id, error)
            return None

    # ------------------------------------------------------------ in

    async def report(self, request: ReportRequest) -> None:
        """Takes a dispatcher's results.

        Raises:
            StaleFence: the job has been claimed again, or ended, since.
        """
        if not request.final:
            await self._give_back(request)
            return
        # Written before the fence is looked at: stale reports are rare, and an orphan is harmless.
        pack = await self._write_pack(request.results)
        now = self.clock.now()
        async with self.database.write() as conn:
            job = await _held_job(conn, request)
            known = await answers.find(conn, [result.answer_key for result in request.results])
            visible = await _known_items(conn, request.results)
            outcome = self._judge(job, request.results, known, visible, pack, now)
            await self._store(conn, outcome, pack, now)
            left = await answers.pending_keys(conn, job.id)
            silent = ServiceFailed(f"nothing was reported about it by {request.dispatcher}")
            outcome.failed |= {key: silent.problem() for key in left if key not in outcome.failed}
            settled = await _settle(conn, outcome)
            await jobs.set_state(conn, [job.id], "done")
            await jobs.end_attempt(conn, job.id, job.fence, _ended(request, "done", now))
        self._tell(job.service, settled, outcome)

    async def put_late(self, answer_key: str, answer: PrefixAnswer) -> None:
        """Takes an answer that an expert had promised.

        Raises:
            NotFound: nobody asked for it.
            AnswerRefused: it cannot be what was asked.
            Conflict: another answer stands already, or the promise was given up.
        """
        async with self.database.read() as conn:
            state = (await answers.find(conn, [answer_key])).get(answer_key)
            packed = await answers.question_frame(conn, answer_key)
        if state is None or packed is None or state.kind != "logprobs":
            raise NotFound(f"nobody asked for {answer_key}", field="answer_key")
        query = unpack_query("logprobs", packed)
        assert isinstance(query, PrefixQuery), "its kind is logprobs"
        entry = self.registry.get(state.service, "expert", field="answer_key")
        check_answer(query, answer, entry.known_info().capabilities)
        pack = await self.packs.write({answer_key: answer.model_dump(exclude_none=True)})
        await self._store_late(answer_key, answer, pack)

    async def _store_late(self, answer_key: str, answer: PrefixAnswer, pack: Written) -> None:
        now = self.clock.now()
        async with self.database.write() as conn:
            state = (await answers.find(conn, [answer_key]))[answer_key]
            if state.state == "done":
                stored = (await answers.stored(conn, [answer_key]))[answer_key]
                if stored.pack_sha256 != pack.sha256:
                    raise Conflict("another answer stands already", field="answer_key")
                return
            if state.state == "failed":
                raise Conflict("the promise was given up", field="answer_key")
            result = ItemResult(answer_key=answer_key, prefix=answer)
            visible = await _known_items(conn, [result])
            outcome = _Outcome()
            self._judge_prefix(outcome, state, answer, visible, pack, now)
            for problem in outcome.failed.values():
                raise Invalid(problem.detail, errors=problem.errors)
            await self._store(conn, outcome, pack, now)
            settled = await _settle(conn, outcome)
            await tickets.add_arrivals(conn, settled)
        self._tell(state.service, settled, outcome)

    async def _give_back(self, request: ReportRequest) -> None:
        """The job goes back to the stream, or to the dead after too many deliveries."""
        now = self.clock.now()
        reason = request.reason or ServiceFailed("no reason was given").problem()
        settled: list[Settled] = []
        async with self.database.write() as conn:
            job = await _held_job(conn, request)
            await jobs.end_attempt(conn, job.id, job.fence, _ended(request, "given back", now))
            buried = job.attempts >= MAX_DELIVERIES
            if buried:
                settled = await _bury(conn, job, reason)
            else:
                await jobs.set_state(conn, [job.id], "queued", _document(reason))
                await tickets.mark_queued(conn, await answers.pending_keys(conn, job.id))
        self.notifier.notify(ticket.id for ticket in settled)
        if not buried and not await put_jobs(self.queue, [job]):
            async with self.database.write() as conn:
                await jobs.mark_put(conn, [job.id], now)

    async def _write_pack(self, results: Sequence[ItemResult]) -> Written | None:
        entries = {
            r.answer_key: r.prefix.model_dump(exclude_none=True)
            for r in results
            if r.prefix is not None
        }
        return await self.packs.write(entries) if entries else None

    def _judge(
        self,
        job: JobRow,
        results: Sequence[ItemResult],
        known: dict[str, AnswerState],
        visible: set[str],
        pack: Written | None,
        now: float,
    ) -> _Outcome:
        outcome = _Outcome()
        for place, result in enumerate(results):
            state = known.get(result.answer_key)
            if state is None or state.service != job.service:
                raise Invalid(
                    "is no question of this job's service", field=f"results[{place}].answer_key"
                )
            if state.state == "done":
                continue  # Somebody else's job has answered it; the first answer stands.
            if result.prefix is not None and pack is not None:
                self._judge_prefix(outcome, state, result.prefix, visible, pack, now)
            elif result.feedback is not None:
                self._judge_feedback(outcome, state, result, now)
            elif result.accepted:
                outcome.promised.append(result.answer_key)
            elif result.problem is not None:
                outcome.failed[result.answer_key] = result.problem
            else:
                raise Invalid("says nothing", field=f"results[{place}]")
        return outcome

    def _judge_prefix(
        self,
        outcome: _Outcome,
        state: AnswerState,
        answer: PrefixAnswer,
        visible: set[str],
        pack: Written,
        now: float,
    ) -> None:
        refused = _version_changed(answer.expert_version, state)
        if refused is None and not visible.issuperset(answer.used_feedback):
            refused = AnswerRefused("used_feedback", "names an item that nobody sent")
        if refused is not None:
            outcome.failed[state.answer_key] = refused.problem()
            return
        outcome.done.append(
            answer_values(state.answer_key, answer, pack.sha256, self._cost(state.service), now)
        )
        outcome.used += used_rows(state.answer_key, answer)

    def _judge_feedback(
        self, outcome: _Outcome, state: AnswerState, result: ItemResult, now: float
    ) -> None:
        assert result.feedback is not None, "the caller looked"
        refused = _version_changed(result.feedback.source_version, state)
        if refused is not None:
            outcome.failed[state.answer_key] = refused.problem()
            return
        outcome.done.append(
            feedback_values(state.answer_key, result.feedback, self._cost(state.service), now)
        )
        outcome.items += item_rows(state.answer_key, result.feedback, now)

    def _cost(self, service: str) -> float:
        entry = self.registry.find(service)
        return 0.0 if entry is None else entry.cost

    async def _store(
        self, conn: AsyncConnection, outcome: _Outcome, pack: Written | None, now: float
    ) -> None:
        if pack is not None:
            await services.add_blobs(conn, {pack.sha256: pack.size}, now)
        await answers.finish(conn, outcome.done)
        await feedback.add_items(conn, outcome.items)
        await feedback.add_used(conn, outcome.used)
        await answers.promise(conn, outcome.promised)

    def _tell(self, service: str, settled: Sequence[Settled], outcome: _Outcome) -> None:
        self.metrics.answers.labels(service, "done").inc(len(outcome.done))
        self.metrics.answers.labels(service, "failed").inc(len(outcome.failed))
        self.metrics.answers.labels(service, "promised").inc(len(outcome.promised))
        self.notifier.notify(ticket.id for ticket in settled)


async def _held_job(conn: AsyncConnection, request: ReportRequest) -> JobRow:
    job = await jobs.find(conn, request.job_id)
    if job is None:
        raise NotFound(f"no job {request.job_id}", field="job_id")
    if job.fence != request.fence or job.state != "running":
        raise StaleFence(
            f"job {job.id} is {job.state} under fence {job.fence}, not {request.fence}",
            field="fence",
        )
    return job


async def _known_items(conn: AsyncConnection, results: Sequence[ItemResult]) -> set[str]:
    ids = {item for r in results if r.prefix is not None for item in r.prefix.used_feedback}
    return set(await feedback.content_hashes(conn, ids)) if ids else set()


async def _settle(conn: AsyncConnection, outcome: _Outcome) -> list[Settled]:
    """Moves the tickets behind the answers."""
    settled: list[Settled] = []
    if outcome.done:
        settled += await tickets.settle(conn, [row["answer_key"] for row in outcome.done], "done")
    if outcome.promised:
        settled += await tickets.settle(conn, outcome.promised, "waiting")
    for key, problem in outcome.failed.items():
        document = _document(problem)
        await answers.fail(conn, [key], document)
        settled += await tickets.settle(conn, [key], "failed", document)
    return settled


async def _bury(conn: AsyncConnection, job: JobRow, reason: Problem) -> list[Settled]:
    """A job that cannot be done: dead, with its reason as the problem of its tickets."""
    document = _document(reason)
    keys = await answers.pending_keys(conn, job.id)
    await jobs.set_state(conn, [job.id], "dead", document)
    await answers.fail(conn, keys, document)
    return await tickets.settle(conn, keys, "failed", document)


def _gave_up(job: JobRow) -> Problem:
    last = "" if job.reason is None else f"; the last reason: {job.reason.get('detail')}"
    return ServiceFailed(f"given up after {MAX_DELIVERIES} deliveries{last}").problem()


def _version_changed(version: str, state: AnswerState) -> PreceptorError | None:
    if version == state.version:
        return None
    return AnswerRefused(
        "version", f"{state.service} answered as {version}, it was asked as {state.version}"
    )


def _attempt_row(job: JobRow, dispatcher: str, now: float) -> dict[str, Any]:
    return {"job_id": job.id, "fence": job.fence, "dispatcher": dispatcher, "claimed_at": now}


def _ended(request: ReportRequest, outcome: str, now: float) -> dict[str, Any]:
    return {
        "ended_at": now,
        "outcome": outcome,
        "latency_ms": request.latency_ms,
        "reason": None if request.reason is None else _document(request.reason),
    }


def _document(problem: Problem) -> dict[str, Any]:
    return problem.model_dump(mode="json", exclude_none=True)
