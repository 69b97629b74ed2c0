"""Accepts questions: one transaction writes tickets, questions and their jobs, or nothing.

Concurrent requests share a transaction, and then a call of the broker: jobs are put on the stream
after the commit. If the broker does not accept them the tickets remain valid, and `sweep.py` puts
the jobs again. A very large request takes several transactions, each of which stands by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from preceptor_clients.contract.errors import PreceptorError, ProblemDetails, ServiceUnavailable
from preceptor_clients.contract.schemas import FeedbackRequest, LogprobsRequest
from preceptor_clients.kit import request_ids
from preceptor_services.jobs.queue import JobQueue
from preceptor_services.jobs.roles import QUESTIONS
from preceptor_services.kit.clock import Clock
from preceptor_services.kit.group_commit import GroupCommit
from preceptor_services.kit.metrics import Metrics
from preceptor_services.kit.threads import ITEM, off_loop
from preceptor_services.questions.notifier import Watch
from preceptor_services.questions.plan import (
    Admission,
    KnownTicket,
    Rows,
    Standing,
    SubmissionPlan,
    plan_admission,
    together,
)
from preceptor_services.questions.put import put_jobs
from preceptor_services.questions.question import (
    Addressee,
    prepare_feedback,
    prepare_prefixes,
    wish_key,
)
from preceptor_services.questions.sweep import Sweeper
from preceptor_services.registry.services import Registry, ServiceEntry
from preceptor_services.registry.weights import resolve
from preceptor_services.store import services
from preceptor_services.store.database import Connection, Database
from preceptor_services.store.provenance import feedback
from preceptor_services.store.questions import answers, jobs, tickets
from preceptor_services.store.questions.jobs import JobRow
from preceptor_services.store.questions.states import ASKED

_MOST_TOGETHER: Final = 1024
"""Questions of one request in one transaction. A larger request takes several, so that small ones
get their turn between them; where the queue is full in the middle, the rest is refused."""
_PREPARING: Final = 3 * ITEM // 2
"""Checks and keys of one question; up to 80 short ones are prepared without a thread."""


class Posted(NamedTuple):
    """The result of one submission: a ticket or an error."""

    ticket_id: str | None = None
    problem: ProblemDetails | None = None


class Submissions:
    """Serves the submissions of callers."""

    def __init__(
        self,
        *,
        database: Database,
        queue: JobQueue,
        registry: Registry,
        sweeper: Sweeper,
        clock: Clock,
        metrics: Metrics,
        max_queue: int,
        most_tokens: Mapping[str, int],
    ) -> None:
        self._database = database
        self._queue = queue
        self._registry = registry
        self._sweeper = sweeper
        self._clock = clock
        self._metrics = metrics
        self._max_queue = max_queue
        self._most_tokens = most_tokens
        self._commit = GroupCommit(self._commit_all)
        self._put = GroupCommit(self._put_all)

    async def logprobs(self, caller: str, request: LogprobsRequest, watch: Watch) -> list[Posted]:
        """Accepts questions to an expert; the unanswered ones are pending in `watch`.

        Raises:
            PreceptorError: the expert is unknown, its queue is full, or every submission failed.
        """
        entry = self._registry.get(request.expert, "expert", field="expert")
        addressee = _addressee(caller, entry)
        weights: dict[str, str | PreceptorError] = {}
        if addressee.info.capabilities.weights:
            wishes = {wish_key(w): w for s in request.submissions if (w := s.query.weights)}
            async with self._database.read() as conn:
                weights = {key: await resolve(conn, wish) for key, wish in wishes.items()}
        num_ids = sum(len(s.query.response_ids) for s in request.submissions)
        questions, errors = await off_loop(
            num_ids + _PREPARING * len(request.submissions),
            prepare_prefixes,
            addressee,
            request.submissions,
            weights,
        )
        admission = Admission(
            addressee=addressee,
            kind=QUESTIONS[entry.role].kind,
            questions=questions,
            errors=errors,
            run=request.run,
            exclusive=request.batching == "group",
            request_id=request_ids.current(),
        )
        return await self._submit(admission, watch)

    async def feedback(self, caller: str, request: FeedbackRequest, watch: Watch) -> list[Posted]:
        """Accepts questions to a feedback source, like `logprobs`."""
        entry = self._registry.get(request.source, "source", field="source")
        addressee = _addressee(caller, entry)
        payloads = list({s.query.payload_sha256 for s in request.submissions})
        async with self._database.read() as conn:
            known = await services.known_blobs(conn, payloads)
        questions, errors = await off_loop(
            _PREPARING * len(request.submissions),
            prepare_feedback,
            addressee,
            request.submissions,
            known,
        )
        admission = Admission(
            addressee=addressee,
            kind=QUESTIONS[entry.role].kind,
            questions=questions,
            errors=errors,
            run=request.run,
            exclusive=False,
            request_id=request_ids.current(),
        )
        return await self._submit(admission, watch)

    async def _submit(self, admission: Admission, watch: Watch) -> list[Posted]:
        # Before they are written: a ticket that joins a question may be settled immediately after.
        watch.add(question.ticket_id for question in admission.questions)
        tickets: dict[int, str] = {}
        errors: dict[int, PreceptorError] = {}
        refusal: PreceptorError | None = None
        for part in admission.parts(_MOST_TOGETHER):
            try:
                plan = await self._submit_part(part, watch)
            except ServiceUnavailable:
                raise
            except PreceptorError as error:
                refusal = refusal or error
                watch.settle(question.ticket_id for question in part.questions)
                errors |= dict.fromkeys(part.indices, error)
            else:
                tickets |= plan.accepted
                errors |= plan.errors
        if errors and errors.keys() == set(admission.indices):
            raise refusal or together(errors)
        return [
            Posted(problem=errors[i].problem()) if i in errors else Posted(ticket_id=tickets[i])
            for i in admission.indices
        ]

    async def _submit_part(self, admission: Admission, watch: Watch) -> SubmissionPlan:
        plan = await self._commit(admission)
        watch.settle(q.ticket_id for q in admission.questions if not _is_asked(plan, q.ticket_id))
        if plan.jobs:
            await self._put(plan.jobs)
        self._sweeper.expect(row["deadline_at"] for row in plan.tickets)
        self._count(admission.addressee.service, plan)
        return plan

    async def _commit_all(
        self, admissions: Sequence[Admission]
    ) -> list[SubmissionPlan | Exception]:
        """Writes each request's plan; returns the plan or the error of the request."""
        now = self._clock.now()
        outcomes: list[SubmissionPlan | Exception] = []
        async with self._database.write() as conn:
            standing = await _standing(conn, admissions, self._most_tokens)
            for admission in admissions:
                try:
                    plan = plan_admission(admission, standing, self._max_queue, now)
                except PreceptorError as error:
                    service = admission.addressee.service
                    self._metrics.count_refusal(service, "submission", error)
                    outcomes.append(error)
                    continue
                standing.add(plan)
                outcomes.append(plan)
            await _write(conn, [plan for plan in outcomes if isinstance(plan, SubmissionPlan)])
        return outcomes

    async def _put_all(self, requests: Sequence[Rows]) -> list[None]:
        """Puts the jobs of some requests; those that the broker does not take are put later."""
        rows = [row for request in requests for row in request]
        put = [JobRow(**{name: row[name] for name in JobRow._fields}) for row in rows]
        refused = await put_jobs(self._queue, put)
        if refused:
            async with self._database.write() as conn:
                await jobs.mark_put(conn, refused, None)
        return [None for _ in requests]

    def _count(self, service: str, plan: SubmissionPlan) -> None:
        count = self._metrics.tickets
        num_cached = sum(row["cached"] for row in plan.tickets)
        num_refused = sum(row["state"] == "failed" for row in plan.tickets)
        count.labels(service, "refused").inc(len(plan.errors) + num_refused)
        for error in plan.errors.values():
            self._metrics.count_refusal(service, "submission", error)
        count.labels(service, "cached").inc(num_cached)
        count.labels(service, "queued").inc(len(plan.tickets) - num_cached - num_refused)


def _addressee(caller: str, entry: ServiceEntry) -> Addressee:
    return Addressee(
        caller=caller, service=entry.name, info=entry.known_info(), priority=entry.priority
    )


def _is_asked(plan: SubmissionPlan, ticket_id: str) -> bool:
    return plan.states.get(ticket_id) in ASKED


async def _standing(
    conn: Connection, admissions: Sequence[Admission], most_tokens: Mapping[str, int]
) -> Standing:
    questions = [question for admission in admissions for question in admission.questions]
    known = await tickets.find(conn, {q.ticket_id for q in questions})
    items = {item.id for question in questions for item in question.feedback}
    keys = {q.answer_key for q in questions}
    asked = await answers.find(conn, keys)
    adds_jobs = len(asked) < len(keys) or any(a.state == "failed" for a in asked.values())
    seen = await feedback.find(conn, items) if items else {}
    limited = {a.addressee.caller for a in admissions} & most_tokens.keys()
    return Standing(
        tickets={i: KnownTicket(row.payload_hash, row.state) for i, row in known.items()},
        items={row.id: row.content_hash for row in seen.values()},
        withdrawn={row.id: row for row in seen.values() if row.state != "standing"},
        answers={key: answer.state for key, answer in asked.items()},
        unfinished=await jobs.count_unfinished(conn) if adds_jobs else {},
        tokens=await tickets.tokens_in_flight(conn, limited) if limited else {},
        most_tokens=most_tokens,
    )


async def _write(conn: Connection, plans: Sequence[SubmissionPlan]) -> None:
    def together(part: str) -> list[dict[str, Any]]:
        return [row for plan in plans for row in getattr(plan, part)]

    await feedback.add_items(conn, together("items"))
    await jobs.add(conn, together("jobs"))
    await answers.add(conn, together("answers"), together("questions"))
    await answers.reopen(conn, together("reopened"))
    await tickets.add(conn, together("tickets"))
