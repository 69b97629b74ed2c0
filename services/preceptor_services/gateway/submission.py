"""Takes questions in: one transaction writes tickets, questions and their jobs, or nothing.

A ticket whose answer is there is done at once; one whose question is on its way joins it. Only then
do the jobs go on the stream. Where the broker does not take them the tickets stand all the same,
and `upkeep.py` puts the jobs again.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from preceptor_clients.errors import (
    Conflict,
    FieldError,
    KeyReused,
    PreceptorError,
    Problem,
    QueueFull,
)
from preceptor_clients.schemas import (
    FeedbackItem,
    FeedbackRequest,
    LogprobsRequest,
)
from preceptor_services.answer_keys import answer_id
from preceptor_services.gateway.bundling import bundle
from preceptor_services.gateway.clock import Clock
from preceptor_services.gateway.job_queue import JobQueue, put_jobs
from preceptor_services.gateway.metrics import Metrics
from preceptor_services.gateway.questions import (
    Asker,
    Question,
    at_submission,
    prepare_feedback,
    prepare_prefixes,
    wish_key,
)
from preceptor_services.gateway.registry import Registry, ServiceEntry
from preceptor_services.gateway.upkeep import Upkeep
from preceptor_services.gateway.weights import resolve
from preceptor_services.store import answers, feedback, jobs, services, tickets
from preceptor_services.store.database import Database
from preceptor_services.store.jobs import JobRow

_RETRY_AFTER_S = 1.0
_JOINED_STATE = {"done": "done", "waiting": "waiting", "pending": "queued"}


class Posted(NamedTuple):
    """What became of one submission: exactly one of the two."""

    ticket_id: str | None = None
    problem: Problem | None = None


class _Plan(NamedTuple):
    """What one request adds."""

    tickets: list[dict[str, Any]]
    answers: list[dict[str, Any]]
    questions: list[dict[str, Any]]
    reopened: list[dict[str, Any]]
    jobs: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Submissions:
    """Takes requests of callers."""

    database: Database
    queue: JobQueue
    registry: Registry
    upkeep: Upkeep
    clock: Clock
    metrics: Metrics
    max_queue: int

    async def logprobs(self, caller: str, request: LogprobsRequest) -> list[Posted]:
        """Takes questions to an expert.

        Raises:
            PreceptorError: the expert is unknown, its queue is full, or no submission could go on.
        """
        entry = self.registry.get(request.expert, "expert", field="expert")
        asker = _asker(caller, entry)
        weights: dict[str, str | PreceptorError] = {}
        if asker.info.capabilities.weights:
            wishes = {wish_key(w): w for s in request.submissions if (w := s.query.weights)}
            async with self.database.read() as conn:
                weights = {key: await resolve(conn, wish) for key, wish in wishes.items()}
        questions, errors = await asyncio.to_thread(
            prepare_prefixes, asker, request.submissions, weights
        )
        return await self._submit(
            asker,
            "logprobs",
            len(request.submissions),
            questions,
            errors,
            run=request.run,
            exclusive=request.batching == "group",
        )

    async def feedback(self, caller: str, request: FeedbackRequest) -> list[Posted]:
        """Takes questions to a feedback source; as `logprobs`."""
        entry = self.registry.get(request.source, "source", field="source")
        asker = _asker(caller, entry)
        payloads = list({s.query.payload_sha256 for s in request.submissions})
        async with self.database.read() as conn:
            known = await services.known_blobs(conn, payloads)
        questions, errors = await asyncio.to_thread(
            prepare_feedback, asker, request.submissions, known
        )
        return await self._submit(
            asker,
            "feedback",
            len(request.submissions),
            questions,
            errors,
            run=request.run,
            exclusive=False,
        )

    async def _submit(
        self,
        asker: Asker,
        kind: str,
        num_submissions: int,
        questions: list[Question],
        errors: dict[int, PreceptorError],
        *,
        run: str | None,
        exclusive: bool,
    ) -> list[Posted]:
        now = self.clock.now()
        async with self.database.write() as conn:
            accepted, fresh = await _tell_new(conn, questions, errors)
            fresh = await _add_feedback(conn, fresh, errors, now)
            _raise_if_none_left(num_submissions, errors)
            plan = await self._plan(conn, asker, kind, fresh, now, run, exclusive)
            await self._check_room(conn, asker.service, len(plan.jobs))
            await jobs.add(conn, plan.jobs)
            await answers.add(conn, plan.answers, plan.questions)
            await answers.reopen(conn, plan.reopened)
            await tickets.add(conn, plan.tickets)
        await self._put(plan.jobs)
        self.upkeep.expect(row["deadline_at"] for row in plan.tickets)
        self._count(asker.service, plan, len(errors))
        return [
            Posted(problem=errors[i].problem()) if i in errors else Posted(ticket_id=accepted[i])
            for i in range(num_submissions)
        ]

    def _count(self, service: str, plan: _Plan, num_refused: int) -> None:
        count = self.metrics.tickets
        num_cached = sum(row["cached"] for row in plan.tickets)
        count.labels(service, "refused").inc(num_refused)
        count.labels(service, "cached").inc(num_cached)
        count.labels(service, "queued").inc(len(plan.tickets) - num_cached)

    async def _plan(
        self,
        conn: AsyncConnection,
        asker: Asker,
        kind: str,
        fresh: Sequence[Question],
        now: float,
        run: str | None,
        exclusive: bool,
    ) -> _Plan:
        known = await answers.find(conn, {q.answer_key for q in fresh})
        open_keys = {key for key, answer in known.items() if answer.state != "failed"}
        to_ask = {q.answer_key: q for q in fresh if q.answer_key not in open_keys}
        plan = _Plan([], [], [], [], [])
        for job in bundle(list(to_ask.values()), asker.info.limits, exclusive=exclusive):
            job_id = f"j-{uuid.uuid4().hex}"
            plan.jobs.append(_job_row(asker, kind, job_id, job, now, exclusive))
            for ordinal, question in enumerate(job):
                key = question.answer_key
                if key in known:
                    place = {"answer_key": key, "job_id": job_id, "ordinal": ordinal}
                    plan.reopened.append(place)
                else:
                    plan.answers.append(_answer_row(asker, kind, key, job_id, ordinal, now))
                    plan.questions.append(
                        {
                            "answer_key": key,
                            "frame": question.frame,
                            "num_tokens": question.num_tokens,
                        }
                    )
        for question in fresh:
            answer = known.get(question.answer_key)
            state = _JOINED_STATE.get(answer.state, "queued") if answer else "queued"
            plan.tickets.append(_ticket_row(asker, kind, question, state, now, run))
        return plan

    async def _check_room(self, conn: AsyncConnection, service: str, num_jobs: int) -> None:
        if not num_jobs:
            return
        unfinished = (await jobs.count_unfinished(conn)).get(service, 0)
        if unfinished + num_jobs > self.max_queue:
            raise QueueFull(
                f"{service} has {unfinished} unfinished jobs of at most {self.max_queue}",
                retry_after_s=_RETRY_AFTER_S,
            )

    async def _put(self, rows: Sequence[dict[str, Any]]) -> None:
        put = [JobRow(**{name: row[name] for name in JobRow._fields}) for row in rows]
        refused = await put_jobs(self.queue, put)
        if refused:
            async with self.database.write() as conn:
                await jobs.mark_put(conn, refused, None)


def _asker(caller: str, entry: ServiceEntry) -> Asker:
    return Asker(
        caller=caller, service=entry.name, info=entry.known_info(), priority=entry.priority
    )


async def _tell_new(
    conn: AsyncConnection, questions: Sequence[Question], errors: dict[int, PreceptorError]
) -> tuple[dict[int, str], list[Question]]:
    """Ticket of each submission, and the questions whose key was not used before."""
    existing = await tickets.find(conn, {q.ticket_id for q in questions})
    payloads = {ticket_id: row.payload_hash for ticket_id, row in existing.items()}
    accepted: dict[int, str] = {}
    fresh: list[Question] = []
    for question in questions:
        if payloads.setdefault(question.ticket_id, question.payload_hash) != question.payload_hash:
            errors[question.index] = KeyReused(
                f"{question.idempotency_key!r} was used with another query",
                field=f"submissions[{question.index}].idempotency_key",
            )
            continue
        if question.ticket_id not in existing and question.ticket_id not in accepted.values():
            fresh.append(question)
        accepted[question.index] = question.ticket_id
    return accepted, fresh


async def _add_feedback(
    conn: AsyncConnection,
    fresh: Sequence[Question],
    errors: dict[int, PreceptorError],
    now: float,
) -> list[Question]:
    """Writes down feedback that callers bring themselves, so that every answer can be traced to it.

    An id means one text for good: a question that uses a known id for another text is refused.
    """
    ids = {item.id for question in fresh for item in question.feedback}
    if not ids:
        return list(fresh)
    hashes = await feedback.content_hashes(conn, ids)
    new: dict[str, FeedbackItem] = {}
    kept: list[Question] = []
    for question in fresh:
        clash = _clashing_item(question, hashes)
        if clash is not None:
            place, item = clash
            errors[question.index] = at_submission(
                Conflict(f"{item.id!r} names another text already", field=f"feedback[{place}].id"),
                question.index,
            )
            continue
        kept.append(question)
        for item in question.feedback:
            if item.id not in hashes:
                hashes[item.id] = item.content_hash()
                new[item.id] = item
    await feedback.add_items(conn, [_item_row(item, now) for item in new.values()])
    return kept


def _clashing_item(
    question: Question, hashes: Mapping[str, str]
) -> tuple[int, FeedbackItem] | None:
    for place, item in enumerate(question.feedback):
        if hashes.get(item.id, item.content_hash()) != item.content_hash():
            return place, item
    return None


def _item_row(item: FeedbackItem, now: float) -> dict[str, Any]:
    return {
        "id": item.id,
        "answer_key": None,
        "ordinal": 0,
        "content_hash": item.content_hash(),
        "document": item.model_dump(mode="json", exclude_none=True),
        "created_at": now,
    }


def _raise_if_none_left(num_submissions: int, errors: Mapping[int, PreceptorError]) -> None:
    """Where nothing can go on the request itself fails, with every field at fault."""
    if not num_submissions or len(errors) < num_submissions:
        return
    first = errors[min(errors)]
    fields: list[FieldError] = [e for i in sorted(errors) for e in errors[i].errors]
    raise type(first)(first.detail, errors=tuple(fields))


def _job_row(
    asker: Asker,
    kind: str,
    job_id: str,
    questions: Sequence[Question],
    now: float,
    exclusive: bool,
) -> dict[str, Any]:
    return {
        "id": job_id,
        "service": asker.service,
        "kind": kind,
        "state": "queued",
        "priority": min(q.priority for q in questions),
        "num_tokens": sum(q.num_tokens for q in questions),
        "exclusive": exclusive,
        "fence": 0,
        "attempts": 0,
        "created_at": now,
        "put_at": now,
        "claimed_at": None,
        "reason": None,
    }


def _answer_row(
    asker: Asker, kind: str, key: str, job_id: str, ordinal: int, now: float
) -> dict[str, Any]:
    return {
        "answer_key": key,
        "answer_id": answer_id(key),
        "kind": kind,
        "service": asker.service,
        "version": asker.info.version,
        "state": "pending",
        "job_id": job_id,
        "ordinal": ordinal,
        "created_at": now,
    }


def _ticket_row(
    asker: Asker, kind: str, question: Question, state: str, now: float, run: str | None
) -> dict[str, Any]:
    return {
        "id": question.ticket_id,
        "caller": asker.caller,
        "idempotency_key": question.idempotency_key,
        "payload_hash": question.payload_hash,
        "answer_key": question.answer_key,
        "kind": kind,
        "state": state,
        "run": run,
        "rollout_id": question.rollout_id,
        "cached": state == "done",
        "created_at": now,
        "deadline_at": now + question.timeout_s,
        "problem": None,
    }
