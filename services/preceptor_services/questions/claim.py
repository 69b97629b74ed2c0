"""Gives jobs to dispatchers.

Each claim increases the job's fence, and only the last claimant may report. All jobs of a claim are
in one transaction. Queries to experts were checked when they were submitted: they go out as they
are stored, and are not read again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from pydantic import JsonValue

from preceptor_clients.contract.errors import NotFound, ProblemDetails, ServiceFailed
from preceptor_clients.contract.schemas import FeedbackQuery
from preceptor_services.jobs.messages import ClaimedItem, ClaimedJob, ClaimedJobs, ClaimRequest
from preceptor_services.jobs.queue import MAX_CLAIMS
from preceptor_services.jobs.roles import question_of_kind
from preceptor_services.kit.blobs import BlobDamaged, BlobStore
from preceptor_services.kit.clock import Clock
from preceptor_services.kit.metrics import Metrics
from preceptor_services.kit.threads import ITEM, off_loop
from preceptor_services.questions.notifier import Notifier
from preceptor_services.questions.question import unpack_fields, unpack_query
from preceptor_services.questions.settle import document, fail_questions
from preceptor_services.store.database import Connection, Database
from preceptor_services.store.questions import answers, jobs, tickets
from preceptor_services.store.questions.answers import WantedQuestion
from preceptor_services.store.questions.jobs import JobRow
from preceptor_services.store.questions.tickets import Settled

_log = logging.getLogger("preceptor.gateway")
_UNPACKING: Final = 2 * ITEM
"""One stored question; a job of up to 64 is unpacked without a thread."""


@dataclass(frozen=True, kw_only=True)
class JobClaims:
    """Serves the claims of dispatchers."""

    database: Database
    blobs: BlobStore
    notifier: Notifier
    clock: Clock
    metrics: Metrics

    async def claim(self, request: ClaimRequest) -> ClaimedJobs:
        """Claims jobs for a dispatcher; arrays of their queries are unread (`wire.read`)."""
        now = self.clock.now()
        ids = list(dict.fromkeys(request.job_ids))
        async with self.database.write() as conn:
            claimed = await jobs.claim(conn, ids, now)
            settled = await _bury(conn, [job for job in claimed if job.attempts > MAX_CLAIMS])
            alive = {job.id: job for job in claimed if job.attempts <= MAX_CLAIMS}
            wanted = await answers.wanted(conn, list(alive), now) if alive else []
            given = {question.job_id for question in wanted}
            await jobs.drop_unwanted(conn, [job_id for job_id in alive if job_id not in given])
            await jobs.add_attempts(
                conn, [_attempt_row(alive[i], request.dispatcher, now) for i in ids if i in given]
            )
            await tickets.mark_running(conn, [question.answer_key for question in wanted])
        self.notifier.notify(ticket.id for ticket in settled)
        self._observe([alive[job_id] for job_id in given], now)
        return ClaimedJobs(
            jobs=tuple(
                [
                    await self._claimed_job(alive[i], [q for q in wanted if q.job_id == i], now)
                    for i in ids
                    if i in given
                ]
            ),
            dropped=tuple(i for i in ids if i not in given),
        )

    def _observe(self, given: Sequence[JobRow], now: float) -> None:
        for job in given:
            if job.put_at is not None:
                self.metrics.queued_seconds.labels(job.service).observe(now - job.put_at)

    async def _claimed_job(
        self, job: JobRow, questions: Sequence[WantedQuestion], now: float
    ) -> ClaimedJob:
        question = question_of_kind(job.kind)
        left_s = max(wanted.deadline_at for wanted in questions) - now
        if question.kind == "feedback":
            items = [await self._feedback_item(wanted) for wanted in questions]
        else:
            items = await off_loop(_UNPACKING * len(questions), _prefix_items, questions)
        return ClaimedJob(
            job_id=job.id,
            service=job.service,
            kind=question.kind,
            fence=job.fence,
            timeout_ms=max(1, int(left_s * 1000)),
            exclusive=job.exclusive,
            request_id=job.request_id,
            items=tuple(items),
        )

    async def _feedback_item(self, wanted: WantedQuestion) -> ClaimedItem:
        query = unpack_query("feedback", wanted.frame)
        assert isinstance(query, FeedbackQuery), "its kind is feedback"
        whole = query.model_copy(update={"payload": await self._payload(query)})
        return ClaimedItem(answer_key=wanted.answer_key, feedback=whole)

    async def _payload(self, query: FeedbackQuery) -> JsonValue:
        try:
            return json.loads(await self.blobs.get(query.payload_sha256))
        except (NotFound, BlobDamaged, ValueError) as error:
            # One lost blob must not stop the other jobs; the source refuses the query without it.
            _log.error("payload of %s is lost: %s", query.rollout_id, error)
            return None


def _prefix_items(questions: Sequence[WantedQuestion]) -> list[ClaimedItem]:
    return [
        # Not validated: validation would read the arrays.
        ClaimedItem.model_construct(
            answer_key=wanted.answer_key, prefix=cast("Any", unpack_fields(wanted.frame))
        )
        for wanted in questions
    ]


async def _bury(conn: Connection, spent: Sequence[JobRow]) -> list[Settled]:
    """Fails jobs that were delivered too often; their tickets get the reason."""
    if not spent:
        return []
    reasons = {job.id: _gave_up(job) for job in spent}
    await jobs.set_states(conn, [(i, "dead", document(reasons[i])) for i in reasons])
    pending = await answers.pending_keys(conn, list(reasons))
    return await fail_questions(conn, {key: reasons[job_id] for key, job_id in pending.items()})


def _gave_up(job: JobRow) -> ProblemDetails:
    last = "" if job.reason is None else f"; the last reason: {job.reason.get('detail')}"
    return ServiceFailed(f"failed after {MAX_CLAIMS} deliveries{last}").problem()


def _attempt_row(job: JobRow, dispatcher: str, now: float) -> dict[str, Any]:
    return {"job_id": job.id, "fence": job.fence, "dispatcher": dispatcher, "claimed_at": now}
