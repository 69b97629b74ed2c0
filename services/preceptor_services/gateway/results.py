"""Answers as rows. Pure."""

from __future__ import annotations

from typing import Any

from preceptor_clients.schemas import FeedbackAnswer, PrefixAnswer


def answer_values(
    answer_key: str, answer: PrefixAnswer, pack_sha256: str, cost: float, now: float
) -> dict[str, Any]:
    """What an expert's answer fills in of its row; `cost` is the price where it names none."""
    return {
        "answer_key": answer_key,
        "done_at": now,
        "pack_sha256": pack_sha256,
        "expert": answer.expert,
        "answer_kind": answer.kind,
        "weights": answer.weights_before,
        "template_version": answer.template_version,
        "context_hash": answer.context_hash,
        "latency_ms": answer.latency_ms,
        "cost": cost if answer.cost is None else answer.cost,
    }


def used_rows(answer_key: str, answer: PrefixAnswer) -> list[dict[str, Any]]:
    """Which items were in view, in order."""
    return [
        {"answer_key": answer_key, "ordinal": ordinal, "item_id": item}
        for ordinal, item in enumerate(answer.used_feedback)
    ]


def feedback_values(
    answer_key: str, answer: FeedbackAnswer, cost: float, now: float
) -> dict[str, Any]:
    """What a source's answer fills in of its row."""
    return {
        "answer_key": answer_key,
        "done_at": now,
        "expert": answer.source,
        "latency_ms": answer.latency_ms,
        "cost": cost if answer.cost is None else answer.cost,
    }


def item_rows(answer_key: str, answer: FeedbackAnswer, now: float) -> list[dict[str, Any]]:
    """The items of a source's answer.

    A source numbers its items within one answer. Here they get ids that are unique for good,
    because targets refer to them.
    """
    rows: list[dict[str, Any]] = []
    for ordinal, sent in enumerate(answer.items):
        item = sent.model_copy(update={"id": f"f-{answer_key[:24]}-{ordinal}"})
        rows.append(
            {
                "id": item.id,
                "answer_key": answer_key,
                "ordinal": ordinal,
                "content_hash": item.content_hash(),
                "document": item.model_dump(mode="json", exclude_none=True),
                "created_at": now,
            }
        )
    return rows
