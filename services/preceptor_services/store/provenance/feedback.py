"""Queries about feedback items and which of them an expert had in view."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import distinct, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import aliased

from preceptor_services.store.prepared import insert_new
from preceptor_services.store.tables.provenance import (
    AnswerFeedback,
    FeedbackItemRow,
    TargetAnswer,
)
from preceptor_services.store.tables.questions import AnswerRow, Ticket


class ItemRow(NamedTuple):
    """One feedback item."""

    id: str
    answer_key: str | None
    content_hash: str
    document: dict[str, Any]
    source: str
    state: str
    state_reason: str | None
    superseded_by: str | None


_COLUMNS = tuple(getattr(FeedbackItemRow, name) for name in ItemRow._fields)
_Successor = aliased(FeedbackItemRow)
"""The item that counts in the place of a superseded one. Chains are kept one long."""
_SUCCESSOR = tuple(getattr(_Successor, name).label(f"next_{name}") for name in ItemRow._fields)


async def add_items(conn: AsyncConnection, rows: Sequence[dict[str, Any]]) -> None:
    """Adds the items that are new."""
    await insert_new(conn, FeedbackItemRow, rows)


async def content_hashes(conn: AsyncConnection, ids: Iterable[str]) -> dict[str, str]:
    """Content hash of each known item among `ids`."""
    query = select(FeedbackItemRow.id, FeedbackItemRow.content_hash).where(
        FeedbackItemRow.id.in_(list(ids))
    )
    return {row[0]: row[1] for row in await conn.execute(query)}


async def find(conn: AsyncConnection, ids: Iterable[str]) -> dict[str, ItemRow]:
    """Those of `ids` that are on record."""
    query = select(*_COLUMNS).where(FeedbackItemRow.id.in_(list(ids)))
    return {row[0]: ItemRow(*row) for row in await conn.execute(query)}


async def of_answers(conn: AsyncConnection, keys: Iterable[str]) -> dict[str, list[ItemRow]]:
    """Items that each source's answer consists of, in order; a superseded one's successor.

    A successor is there once, also where it is of the same answer or supersedes several of its
    items.
    """
    query = (
        select(FeedbackItemRow.answer_key, *_COLUMNS, *_SUCCESSOR)
        .outerjoin(_Successor, _Successor.id == FeedbackItemRow.superseded_by)
        .where(FeedbackItemRow.answer_key.in_(list(keys)))
        .order_by(FeedbackItemRow.answer_key, FeedbackItemRow.ordinal)
    )
    found: dict[str, dict[str, ItemRow]] = {}
    for row in await conn.execute(query):
        item = _that_counts(row[1:])
        found.setdefault(str(row[0]), {})[item.id] = item
    return {key: list(items.values()) for key, items in found.items()}


def _that_counts(row: Sequence[Any]) -> ItemRow:
    """The successor in columns after those of the item itself, if there is one."""
    width = len(_COLUMNS)
    return ItemRow._make(row[:width] if row[width] is None else row[width:])


async def of_rollouts(conn: AsyncConnection, ids: Iterable[str]) -> dict[str, list[ItemRow]]:
    """Feedback items by rollout; a rollout about which no source was asked is absent.

    The list is empty if a source was asked and has not answered, or has failed. In the place of a
    superseded item is its successor.
    """
    found: dict[str, dict[str, ItemRow]] = {}
    query = (
        select(Ticket.rollout_id, *_COLUMNS, *_SUCCESSOR)
        .outerjoin(FeedbackItemRow, FeedbackItemRow.answer_key == Ticket.answer_key)
        .outerjoin(_Successor, _Successor.id == FeedbackItemRow.superseded_by)
        .where(Ticket.kind == "feedback", Ticket.rollout_id.in_(list(ids)))
        .order_by(Ticket.created_at, Ticket.id, FeedbackItemRow.ordinal)
    )
    for row in await conn.execute(query):
        items = found.setdefault(str(row[0]), {})
        if row[1] is not None:  # an outer join: there may be none
            item = _that_counts(row[1:])
            # By id: two tickets of a rollout may share an answer.
            items[item.id] = item
    return {rollout_id: list(items.values()) for rollout_id, items in found.items()}


async def listed(conn: AsyncConnection, ids: Iterable[str]) -> dict[str, list[ItemRow]]:
    """Every feedback item of these rollouts, whatever its state, in the order of their ids."""
    wanted = list(ids)
    asked = (
        select(Ticket.rollout_id, *_COLUMNS)
        .join(FeedbackItemRow, FeedbackItemRow.answer_key == Ticket.answer_key)
        .where(Ticket.rollout_id.in_(wanted))
    )
    own = select(FeedbackItemRow.rollout_id, *_COLUMNS).where(
        FeedbackItemRow.rollout_id.in_(wanted)
    )
    found: dict[str, dict[str, ItemRow]] = {}
    for query in (asked, own):
        for row in await conn.execute(query):
            found.setdefault(str(row[0]), {})[row[1]] = ItemRow._make(row[1:])
    return {name: [items[key] for key in sorted(items)] for name, items in found.items()}


async def lock(conn: AsyncConnection, ids: Iterable[str]) -> dict[str, ItemRow]:
    """Those of `ids` that are on record; no other transaction changes them meanwhile."""
    query = (
        select(*_COLUMNS)
        .where(FeedbackItemRow.id.in_(list(ids)))
        .order_by(FeedbackItemRow.id)
        .with_for_update()
    )
    return {row[0]: ItemRow(*row) for row in await conn.execute(query)}


async def withdraw(
    conn: AsyncConnection, item_id: str, state: str, reason: str, superseded_by: str | None
) -> None:
    """Ends an item; those that it superseded have its successor from now on."""
    changed: dict[str, Any] = {"state": state, "state_reason": reason}
    await conn.execute(
        update(FeedbackItemRow)
        .where(FeedbackItemRow.id == item_id)
        .values(**changed, superseded_by=superseded_by)
    )
    if superseded_by is not None:
        await conn.execute(
            update(FeedbackItemRow)
            .where(FeedbackItemRow.superseded_by == item_id)
            .values(superseded_by=superseded_by)
        )


async def count_targets(conn: AsyncConnection, item_id: str) -> int:
    """Targets with an answer that had the item in view."""
    query = (
        select(func.count(distinct(TargetAnswer.target_id)))
        .join(AnswerRow, AnswerRow.answer_id == TargetAnswer.answer_id)
        .join(AnswerFeedback, AnswerFeedback.answer_key == AnswerRow.answer_key)
        .where(AnswerFeedback.item_id == item_id)
    )
    return (await conn.execute(query)).scalar_one()


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
    return [(ItemRow._make(row[:-1]), row[-1]) for row in await conn.execute(query)]
