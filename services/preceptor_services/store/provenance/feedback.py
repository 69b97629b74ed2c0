"""Queries about feedback items and which of them an expert had in view."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, cast

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from preceptor_services.store.prepared import insert_new
from preceptor_services.store.tables.provenance import AnswerFeedback, FeedbackItemRow
from preceptor_services.store.tables.questions import AnswerRow, Ticket


class ItemRow(NamedTuple):
    """One feedback item."""

    id: str
    answer_key: str | None
    content_hash: str
    document: dict[str, Any]


_COLUMNS = (
    FeedbackItemRow.id,
    FeedbackItemRow.answer_key,
    FeedbackItemRow.content_hash,
    FeedbackItemRow.document,
)


async def add_items(conn: AsyncConnection, rows: Sequence[dict[str, Any]]) -> None:
    """Adds the items that are new."""
    await insert_new(conn, FeedbackItemRow, rows)


async def content_hashes(conn: AsyncConnection, ids: Iterable[str]) -> dict[str, str]:
    """Content hash of each known item among `ids`."""
    query = select(FeedbackItemRow.id, FeedbackItemRow.content_hash).where(
        FeedbackItemRow.id.in_(list(ids))
    )
    return {row[0]: row[1] for row in await conn.execute(query)}


async def of_answers(conn: AsyncConnection, keys: Iterable[str]) -> dict[str, list[ItemRow]]:
    """Items that each source's answer consists of, in order."""
    query = (
        select(*_COLUMNS)
        .where(FeedbackItemRow.answer_key.in_(list(keys)))
        .order_by(FeedbackItemRow.answer_key, FeedbackItemRow.ordinal)
    )
    found: dict[str, list[ItemRow]] = {}
    for row in await conn.execute(query):
        found.setdefault(row.answer_key, []).append(ItemRow(*row))
    return found


async def of_rollouts(conn: AsyncConnection, ids: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
    """Feedback items by rollout; a rollout about which no source was asked is absent.

    The list is empty if a source was asked and has not answered, or has failed.
    """
    query = (
        select(Ticket.rollout_id, FeedbackItemRow.id, FeedbackItemRow.document)
        .outerjoin(FeedbackItemRow, FeedbackItemRow.answer_key == Ticket.answer_key)
        .where(Ticket.kind == "feedback", Ticket.rollout_id.in_(list(ids)))
        .order_by(Ticket.created_at, Ticket.id, FeedbackItemRow.ordinal)
    )
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in await conn.execute(query):
        items = found.setdefault(str(row[0]), {})
        item_id = cast("str | None", row[1])  # an outer join: there may be none
        if item_id is not None:
            # By id: two tickets of a rollout may share an answer.
            items[item_id] = row[2]
    return {rollout_id: list(items.values()) for rollout_id, items in found.items()}


async def add_used(conn: AsyncConnection, rows: Sequence[dict[str, Any]]) -> None:
    """Records which items answers had in view."""
    await insert_new(conn, AnswerFeedback, rows)


async def used_by(conn: AsyncConnection, answer_id: str) -> list[tuple[ItemRow, str | None]]:
    """Items that one expert answer had in view, in order, each with its source's answer."""
    expert, source = AnswerRow, AnswerRow.__table__.alias("source_answer")
    query = (
        select(*_COLUMNS, source.c.answer_id)
        .join(AnswerFeedback, AnswerFeedback.item_id == FeedbackItemRow.id)
        .join(expert, expert.answer_key == AnswerFeedback.answer_key)
        .outerjoin(source, source.c.answer_key == FeedbackItemRow.answer_key)
        .where(expert.answer_id == answer_id)
        .order_by(AnswerFeedback.ordinal)
    )
    return [(ItemRow(*row[:4]), row[4]) for row in await conn.execute(query)]
