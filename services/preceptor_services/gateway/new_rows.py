"""What a submission adds, as rows. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from preceptor_clients.schemas import FeedbackItem
from preceptor_services.answer_keys import answer_id
from preceptor_services.gateway.questions import Asker, Question


def item_row(item: FeedbackItem, now: float) -> dict[str, Any]:
    """Feedback that a caller brought along."""
    return {
        "id": item.id,
        "answer_key": None,
        "ordinal": 0,
        "content_hash": item.content_hash(),
        "document": item.model_dump(mode="json", exclude_none=True),
        "created_at": now,
    }


def job_row(
    asker: Asker,
    kind: str,
    job_id: str,
    questions: Sequence[Question],
    now: float,
    exclusive: bool,
) -> dict[str, Any]:
    """One job."""
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


def answer_row(
    asker: Asker, kind: str, key: str, job_id: str, ordinal: int, now: float
) -> dict[str, Any]:
    """An answer that is still to come."""
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


def question_row(question: Question) -> dict[str, Any]:
    """What was asked."""
    return {
        "answer_key": question.answer_key,
        "frame": question.frame,
        "num_tokens": question.num_tokens,
    }


def ticket_row(
    asker: Asker, kind: str, question: Question, state: str, now: float, run: str | None
) -> dict[str, Any]:
    """One ticket."""
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
