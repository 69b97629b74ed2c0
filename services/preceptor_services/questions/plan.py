"""Plans the rows that requests add. Pure: rows come in as values and go out as values.

A ticket whose answer is stored is done immediately. A ticket whose question is pending joins it.
The other questions become jobs. Requests that share a transaction are planned one after the other,
each on top of the rows of those before it, so that the result is the same as in separate
transactions.
"""

from __future__ import annotations

import uuid
from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

from preceptor_clients.contract.errors import (
    Conflict,
    FieldError,
    KeyOverLimit,
    KeyReused,
    PreceptorError,
    QueueFull,
    TooLarge,
)
from preceptor_clients.contract.schemas import FeedbackItem
from preceptor_services.questions.accept import item_row
from preceptor_services.questions.bundle import bundle
from preceptor_services.questions.keys import answer_id
from preceptor_services.questions.question import Addressee, Question, at_submission
from preceptor_services.questions.withdrawn import problem_of
from preceptor_services.store.provenance.feedback import ItemRow

_RETRY_AFTER_S: Final = 1.0
_JOINED_STATE: Final = {"done": "done", "waiting": "waiting", "pending": "queued"}

Rows = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Admission:
    """One request: the `questions` that passed the checks, and the `errors` of the others."""

    addressee: Addressee
    kind: str
    questions: Sequence[Question]
    errors: Mapping[int, PreceptorError]
    run: str | None
    exclusive: bool
    request_id: str | None = None
    """Id of the request, which its jobs carry to the experts."""

    @property
    def indices(self) -> list[int]:
        """Places of its submissions in the request."""
        return sorted({question.index for question in self.questions} | self.errors.keys())

    def parts(self, most: int) -> list[Admission]:
        """The same submissions as admissions of at most so many questions.

        Questions that are to be asked in one call stay together; the errors are in the first part.
        """
        if self.exclusive or len(self.questions) <= most:
            return [self]
        parts: list[Admission] = []
        for start in range(0, len(self.questions), most):
            questions = self.questions[start : start + most]
            parts.append(replace(self, questions=questions, errors={} if parts else self.errors))
        return parts


class KnownTicket(NamedTuple):
    """The needed fields of an existing ticket whose key is used again."""

    payload_hash: str
    state: str


@dataclass(kw_only=True)
class Standing:
    """The stored rows that some requests depend on."""

    tickets: dict[str, KnownTicket]
    """By id."""
    items: dict[str, str]
    """Content hash of feedback items, by id."""
    withdrawn: Mapping[str, ItemRow] = field(default_factory=dict[str, ItemRow])
    """Those among them that do not count any more."""
    answers: dict[str, str]
    """State by answer key."""
    unfinished: dict[str, int]
    """Jobs by service."""
    tokens: dict[str, int] = field(default_factory=dict[str, int])
    """Tokens of unanswered questions, by caller with a limit."""
    most_tokens: Mapping[str, int] = field(default_factory=dict[str, int])
    """The limit of each caller that has one."""

    def add(self, plan: SubmissionPlan) -> None:
        """Adds the rows of `plan`, which will be written."""
        self.tickets |= {r["id"]: KnownTicket(r["payload_hash"], r["state"]) for r in plan.tickets}
        self.items |= {row["id"]: row["content_hash"] for row in plan.items}
        for row in (*plan.answers, *plan.reopened):
            self.answers[row["answer_key"]] = row.get("state", "pending")
        for caller, number in plan.tokens.items():
            self.tokens[caller] = self.tokens.get(caller, 0) + number
        for row in plan.jobs:
            self.unfinished[row["service"]] = self.unfinished.get(row["service"], 0) + 1


@dataclass(kw_only=True)
class SubmissionPlan:
    """The rows that one request adds, and the tickets of its submissions."""

    accepted: dict[int, str] = field(default_factory=dict[int, str])
    """Ticket of each accepted submission."""
    states: dict[str, str] = field(default_factory=dict[str, str])
    """Of these tickets."""
    errors: dict[int, PreceptorError] = field(default_factory=dict[int, PreceptorError])
    items: Rows = field(default_factory=Rows)
    tickets: Rows = field(default_factory=Rows)
    answers: Rows = field(default_factory=Rows)
    questions: Rows = field(default_factory=Rows)
    reopened: Rows = field(default_factory=Rows)
    jobs: Rows = field(default_factory=Rows)
    tokens: dict[str, int] = field(default_factory=dict[str, int])
    """Tokens of its unanswered questions, by caller."""


def plan_admission(
    request: Admission, standing: Standing, max_queue: int, now: float
) -> SubmissionPlan:
    """The rows that `request` adds.

    Where every submission failed it adds none.

    Raises:
        PreceptorError: the queue is full, or the key's tokens are used up.
    """
    plan = SubmissionPlan(errors=dict(request.errors))
    fresh = _tell_new(plan, request.questions, standing)
    fresh = _fail_withdrawn(plan, request, fresh, standing, now)
    fresh = _add_items(plan, fresh, standing, now)
    _add_jobs(plan, request, fresh, standing, now)
    _check_room(request.addressee.service, len(plan.jobs), standing, max_queue)
    _check_tokens(plan, request.addressee.caller, fresh, standing)
    for question in fresh:
        # A question that failed before is asked again.
        state = _JOINED_STATE.get(standing.answers.get(question.answer_key, "pending"), "queued")
        row = ticket_row(request.addressee, request.kind, question, state, now, request.run)
        if state == "waiting":
            # It joins a promise, and waits until the promise expires.
            late_s = request.addressee.info.capabilities.late_s or 0.0
            row["deadline_at"] = max(row["deadline_at"], now + late_s)
        plan.tickets.append(row)
        plan.states[question.ticket_id] = state
    return plan


def _tell_new(
    plan: SubmissionPlan, questions: Sequence[Question], standing: Standing
) -> list[Question]:
    """The questions with a new key; every ticket is added to the plan."""
    payloads: dict[str, str] = {}
    fresh: list[Question] = []
    for question in questions:
        known = standing.tickets.get(question.ticket_id)
        is_first = known is None and question.ticket_id not in payloads
        payload = payloads.setdefault(
            question.ticket_id, question.payload_hash if known is None else known.payload_hash
        )
        if payload != question.payload_hash:
            plan.errors[question.index] = KeyReused(
                f"{question.idempotency_key!r} was used with another query",
                field=f"submissions[{question.index}].idempotency_key",
            )
            continue
        if known is not None:
            plan.states[question.ticket_id] = known.state
        if is_first:
            fresh.append(question)
        plan.accepted[question.index] = question.ticket_id
    return fresh


def _fail_withdrawn(
    plan: SubmissionPlan,
    request: Admission,
    fresh: Sequence[Question],
    standing: Standing,
    now: float,
) -> list[Question]:
    """The questions whose feedback all counts; the tickets of the others have failed.

    A ticket, and no refusal: an item may be retired while a trainer holds it, and the other experts
    answer about such an attempt as before.
    """
    kept: list[Question] = []
    for question in fresh:
        problem = _withdrawn(question, standing)
        if problem is None:
            kept.append(question)
            continue
        key, addressee = question.answer_key, request.addressee
        ticket = ticket_row(addressee, request.kind, question, "failed", now, request.run)
        plan.tickets.append(ticket | {"problem": problem})
        plan.states[question.ticket_id] = "failed"
        if key not in standing.answers and all(row["answer_key"] != key for row in plan.answers):
            row = answer_row(addressee, request.kind, key, None, 0, now)
            plan.answers.append(row | {"state": "failed", "problem": problem})
            plan.questions.append(question_row(question))
    return kept


def _withdrawn(question: Question, standing: Standing) -> dict[str, Any] | None:
    for place, item in enumerate(question.feedback):
        row = standing.withdrawn.get(item.id)
        if row is not None:
            field_ = f"submissions[{question.index}].query.feedback[{place}].id"
            return problem_of(row, field_).model_dump(mode="json", exclude_none=True)
    return None


def _add_items(
    plan: SubmissionPlan, fresh: Sequence[Question], standing: Standing, now: float
) -> list[Question]:
    """Adds the feedback items of callers, so that every answer can be traced to them.

    An id always names the same text: a question that uses a known id for another text is refused.
    """
    new: dict[str, FeedbackItem] = {}
    hashes: dict[str, str] = {}
    known = ChainMap(hashes, standing.items)
    kept: list[Question] = []
    for question in fresh:
        clash = _clashing_item(question, known)
        if clash is not None:
            place, item = clash
            problem = Conflict(
                f"{item.id!r} is already the id of another text", field=f"feedback[{place}].id"
            )
            plan.errors[question.index] = at_submission(problem, question.index)
            continue
        kept.append(question)
        for item in question.feedback:
            if item.id not in known:
                hashes[item.id] = item.content_hash()
                new[item.id] = item
    plan.items += [item_row(item, now) for item in new.values()]
    return kept


def _clashing_item(
    question: Question, hashes: Mapping[str, str]
) -> tuple[int, FeedbackItem] | None:
    for place, item in enumerate(question.feedback):
        known = hashes.get(item.id)
        if known is not None and known != item.content_hash():
            return place, item
    return None


def together(errors: Mapping[int, PreceptorError]) -> PreceptorError:
    """The error of a request of which every submission failed, with every field at fault."""
    first = errors[min(errors)]
    fields: list[FieldError] = [e for i in sorted(errors) for e in errors[i].errors]
    return type(first)(first.detail, errors=tuple(fields))


def _add_jobs(
    plan: SubmissionPlan,
    request: Admission,
    fresh: Sequence[Question],
    standing: Standing,
    now: float,
) -> None:
    addressee, kind = request.addressee, request.kind
    to_ask = {
        q.answer_key: q for q in fresh if standing.answers.get(q.answer_key, "failed") == "failed"
    }
    limits = addressee.info.limits
    for job in bundle(list(to_ask.values()), limits, exclusive=request.exclusive):
        job_id = f"j-{uuid.uuid4().hex}"
        row = job_row(addressee, kind, job_id, job, now, request.exclusive, request.request_id)
        plan.jobs.append(row)
        for ordinal, question in enumerate(job):
            key = question.answer_key
            if key in standing.answers:
                place = {"answer_key": key, "job_id": job_id, "ordinal": ordinal}
                plan.reopened.append(place)
            else:
                plan.answers.append(answer_row(addressee, kind, key, job_id, ordinal, now))
                plan.questions.append(question_row(question))


def _check_room(service: str, num_jobs: int, standing: Standing, max_queue: int) -> None:
    unfinished = standing.unfinished.get(service, 0)
    if num_jobs and unfinished + num_jobs > max_queue:
        raise QueueFull(
            f"{service} has {unfinished} unfinished jobs, the limit is {max_queue}",
            retry_after_s=_RETRY_AFTER_S,
        )


def _check_tokens(
    plan: SubmissionPlan, caller: str, fresh: Sequence[Question], standing: Standing
) -> None:
    most = standing.most_tokens.get(caller)
    if most is None:
        return
    # Stored and promised answers occupy no expert.
    asked = (q for q in fresh if standing.answers.get(q.answer_key) not in ("done", "waiting"))
    new = sum(question.num_tokens for question in asked)
    if new > most:
        raise TooLarge(
            f"the questions have {new} tokens, and {caller} may have {most} in flight; "
            "send them in parts",
            field="submissions",
        )
    in_flight = standing.tokens.get(caller, 0)
    if new and in_flight + new > most:
        raise KeyOverLimit(
            f"{caller} has {in_flight} tokens in flight and sent {new} more, the limit is {most}",
            field="submissions",
            retry_after_s=_RETRY_AFTER_S,
        )
    plan.tokens[caller] = new


def job_row(
    addressee: Addressee,
    kind: str,
    job_id: str,
    questions: Sequence[Question],
    now: float,
    exclusive: bool,
    request_id: str | None,
) -> dict[str, Any]:
    """One job."""
    return {
        "id": job_id,
        "service": addressee.service,
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
        "request_id": request_id,
    }


def answer_row(
    addressee: Addressee, kind: str, key: str, job_id: str | None, ordinal: int, now: float
) -> dict[str, Any]:
    """The row of a pending answer."""
    return {
        "answer_key": key,
        "answer_id": answer_id(key),
        "kind": kind,
        "service": addressee.service,
        "version": addressee.info.version,
        "state": "pending",
        "job_id": job_id,
        "ordinal": ordinal,
        "created_at": now,
        "problem": None,
    }


def question_row(question: Question) -> dict[str, Any]:
    """The row of a question."""
    return {
        "answer_key": question.answer_key,
        "frame": question.packed(),
        "num_tokens": question.num_tokens,
    }


def ticket_row(
    addressee: Addressee, kind: str, question: Question, state: str, now: float, run: str | None
) -> dict[str, Any]:
    """One ticket."""
    return {
        "id": question.ticket_id,
        "caller": addressee.caller,
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
