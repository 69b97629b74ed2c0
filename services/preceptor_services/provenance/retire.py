"""Retires single feedback items: a judgement that was wrong counts no longer.

Nothing is deleted. From then on the item is in no reward of a list, callers get an error in its
place, or the item that supersedes it, and no expert is asked with it in view. What was made with it
before stays on record as it was: the trace of a target shows the item and that it was retired.
"""

from __future__ import annotations

from preceptor_clients.contract.errors import Conflict, Invalid, NotFound
from preceptor_clients.contract.operations import RetiredItem, RetireItem
from preceptor_clients.contract.schemas import ItemState
from preceptor_services.store.database import Connection, Database
from preceptor_services.store.provenance import feedback
from preceptor_services.store.provenance.feedback import ItemRow


async def retire(database: Database, sent: RetireItem) -> tuple[RetiredItem, bool]:
    """Ends an item; the same call again changes nothing, and the first reason stays.

    Returns:
        The item, and whether this call ended it.

    Raises:
        NotFound: the item or its successor is not on record.
        Invalid: the successor cannot count in its place.
        Conflict: the item ended in the other way, or the successor does not count itself.
    """
    state: ItemState = "retired" if sent.superseded_by is None else "superseded"
    async with database.write() as conn:
        rows = await feedback.lock(conn, {sent.item_id, sent.superseded_by or sent.item_id})
        row = rows.get(sent.item_id)
        if row is None:
            raise NotFound(f"no feedback item {sent.item_id!r}", field="item_id")
        is_new = row.state == "standing"
        if is_new:
            _check_successor(row, sent.superseded_by, rows)
            await feedback.withdraw(conn, row.id, state, sent.reason, sent.superseded_by)
        elif (row.state, row.superseded_by) != (state, sent.superseded_by):
            by = f" by {row.superseded_by!r}" if row.superseded_by else ""
            raise Conflict(f"{row.id!r} is {row.state}{by}: {row.state_reason}", field="item_id")
        return await _described(conn, row, sent, state), is_new


def _check_successor(row: ItemRow, successor: str | None, rows: dict[str, ItemRow]) -> None:
    if successor is None:
        return
    other = rows.get(successor)
    if other is None:
        raise NotFound(f"no feedback item {successor!r}", field="superseded_by")
    if other.id == row.id:
        raise Invalid("is the item itself", field="superseded_by")
    if other.source != row.source:
        raise Invalid(f"is of source {other.source}, not {row.source}", field="superseded_by")
    if other.state != "standing":
        raise Conflict(f"{other.id!r} is {other.state}", field="superseded_by")


async def _described(
    conn: Connection, row: ItemRow, sent: RetireItem, state: ItemState
) -> RetiredItem:
    return RetiredItem(
        item_id=row.id,
        source=row.source,
        state=state,
        reason=row.state_reason or sent.reason,
        superseded_by=sent.superseded_by,
        targets=await feedback.count_targets(conn, row.id),
    )
