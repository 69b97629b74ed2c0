"""Queries about rounds and their items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, bindparam, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from preceptor_services.store.prepared import insert_new
from preceptor_services.store.sql import padded
from preceptor_services.store.tables.corrections import (
    CorrectionClaim,
    CorrectionItem,
    CorrectionRound,
)


class RoundRow(NamedTuple):
    """One round."""

    name: str
    settings: dict[str, Any]
    created_at: float


class ItemRow(NamedTuple):
    """One item without its document."""

    serial: int
    id: str
    round: str
    state: str
    wanted: int
    num_live: int
    priority: float
    reason: str
    run: str | None
    rollout_id: str | None
    problem_id: str | None
    step: int | None
    authoritative: str | None
    excerpt: str
    created_at: float
    updated_at: float


class WholeRow(NamedTuple):
    """One item with its document, and the settings of its round."""

    item: ItemRow
    document: dict[str, Any]
    settings: dict[str, Any]


ITEM: Final = tuple(getattr(CorrectionItem, name) for name in ItemRow._fields)
_WHOLE: Final = (
    select(*ITEM, CorrectionItem.document, CorrectionRound.settings)
    .join(CorrectionRound, CorrectionRound.name == CorrectionItem.round)
    .where(CorrectionItem.id == bindparam("b_id"))
)
_LOCK: Final = (
    select(*ITEM)
    .where(CorrectionItem.id.in_(bindparam("ids")))
    .order_by(CorrectionItem.serial)
    .with_for_update(key_share=True)
)
_SETTLE: Final = (
    update(CorrectionItem)
    .where(CorrectionItem.id == bindparam("b_id"))
    .values(state="done", authoritative=bindparam("b_version"), updated_at=bindparam("b_now"))
)


# ---------------------------------------------------------------- rounds


async def add_round(conn: AsyncConnection, name: str, settings: dict[str, Any], now: float) -> None:
    """Adds the round if it does not exist."""
    row = {
        "name": name,
        "settings": settings,
        "closed": bool(settings["closed"]),
        "created_at": now,
    }
    await insert_new(conn, CorrectionRound, [row])


async def change_round(conn: AsyncConnection, name: str, settings: dict[str, Any]) -> None:
    """Changes the rules of a round; existing claims stay."""
    await conn.execute(
        update(CorrectionRound)
        .where(CorrectionRound.name == name)
        .values(settings=settings, closed=bool(settings["closed"]))
    )


async def lock_round(conn: AsyncConnection, name: str) -> RoundRow | None:
    """The round, locked, so that one transaction at a time counts its budget."""
    query = (
        select(CorrectionRound.name, CorrectionRound.settings, CorrectionRound.created_at)
        .where(CorrectionRound.name == name)
        .with_for_update(key_share=True)
    )
    row = (await conn.execute(query)).first()
    return None if row is None else RoundRow(*row)


async def rounds(conn: AsyncConnection, names: Sequence[str] | None = None) -> list[RoundRow]:
    """These rounds, or all, newest first."""
    query = select(CorrectionRound.name, CorrectionRound.settings, CorrectionRound.created_at)
    if names is not None:
        query = query.where(CorrectionRound.name.in_(names))
    query = query.order_by(CorrectionRound.created_at.desc(), CorrectionRound.name)
    return [RoundRow(*row) for row in await conn.execute(query)]


async def count_by_state(conn: AsyncConnection) -> dict[tuple[str, str], int]:
    """Items by round and state."""
    query = select(CorrectionItem.round, CorrectionItem.state, func.count()).group_by(
        CorrectionItem.round, CorrectionItem.state
    )
    return {(row[0], row[1]): row[2] for row in await conn.execute(query)}


async def count_active_claims(conn: AsyncConnection, now: float) -> dict[str, int]:
    """Claims in force by round."""
    query = (
        select(CorrectionItem.round, func.count())
        .join(CorrectionClaim, CorrectionClaim.item_id == CorrectionItem.id)
        .where(CorrectionClaim.state == "active", CorrectionClaim.lease_until > now)
        .group_by(CorrectionItem.round)
    )
    return {row[0]: row[1] for row in await conn.execute(query)}


# ---------------------------------------------------------------- items


async def count_items(conn: AsyncConnection, round_name: str) -> int:
    """Items of a round."""
    query = select(func.count()).where(CorrectionItem.round == round_name)
    return (await conn.execute(query)).scalar_one()


async def known(
    conn: AsyncConnection, hashes: Sequence[str], round_name: str | None = None
) -> dict[str, str]:
    """Id of the newest item with each of these contents, in one round or in any."""
    query = select(CorrectionItem.content_sha256, CorrectionItem.id).where(
        CorrectionItem.content_sha256.in_(hashes)
    )
    if round_name is not None:
        query = query.where(CorrectionItem.round == round_name)
    return {row[0]: row[1] for row in await conn.execute(query.order_by(CorrectionItem.serial))}


async def add(conn: AsyncConnection, rows: Sequence[dict[str, Any]]) -> None:
    if rows:
        await conn.execute(insert(CorrectionItem), list(rows))


async def find(conn: AsyncConnection, item_id: str) -> ItemRow | None:
    row = (await conn.execute(select(*ITEM).where(CorrectionItem.id == item_id))).first()
    return None if row is None else ItemRow(*row)


async def whole(conn: AsyncConnection, item_id: str) -> WholeRow | None:
    """One item with its document and the settings of its round."""
    row = (await conn.execute(_WHOLE, {"b_id": item_id})).first()
    return None if row is None else WholeRow(ItemRow(*row[:-2]), *row[-2:])


async def lock(conn: AsyncConnection, item_id: str) -> ItemRow | None:
    """One item, locked; required before a change of an item or its claims."""
    return (await lock_all(conn, [item_id])).get(item_id)


async def lock_all(conn: AsyncConnection, ids: Sequence[str]) -> dict[str, ItemRow]:
    """These items, locked in the common order, so that transactions cannot deadlock."""
    rows = await conn.execute(_LOCK, {"ids": padded(ids)})
    return {row.id: ItemRow(*row) for row in rows}


async def documents(conn: AsyncConnection, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The documents of these items, as they were sent."""
    query = select(CorrectionItem.id, CorrectionItem.document).where(CorrectionItem.id.in_(ids))
    return {row[0]: row[1] for row in await conn.execute(query)}


async def settings_of(conn: AsyncConnection, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The settings of each item's round, by item."""
    query = (
        select(CorrectionItem.id, CorrectionRound.settings)
        .join(CorrectionRound, CorrectionRound.name == CorrectionItem.round)
        .where(CorrectionItem.id.in_(padded(ids)))
    )
    return {row[0]: row[1] for row in await conn.execute(query)}


async def change(conn: AsyncConnection, item_id: str, **values: Any) -> None:
    """Changes columns of one item."""
    await conn.execute(update(CorrectionItem).where(CorrectionItem.id == item_id).values(**values))


async def settle(conn: AsyncConnection, versions: dict[str, str], now: float) -> None:
    """Marks these items as done, each with its version."""
    rows = [{"b_id": item, "b_version": v, "b_now": now} for item, v in versions.items()]
    await conn.execute(_SETTLE, rows)


async def page(
    conn: AsyncConnection,
    *,
    round_name: str | None,
    state: str | None,
    run: str | None,
    worked_on_by: str | None,
    after: int,
    limit: int,
) -> list[ItemRow]:
    """Items in the order in which they came, from `after` on."""
    query = select(*ITEM).where(CorrectionItem.serial > after)
    wanted: list[tuple[Any, str | None]] = [
        (CorrectionItem.round, round_name),
        (CorrectionItem.state, state),
        (CorrectionItem.run, run),
    ]
    for column, value in wanted:
        if value is not None:
            query = query.where(column == value)
    if worked_on_by is not None:
        query = query.where(_worked_on_by(worked_on_by))
    query = query.order_by(CorrectionItem.serial).limit(limit)
    return [ItemRow(*row) for row in await conn.execute(query)]


def _worked_on_by(person: str) -> ColumnElement[bool]:
    return (
        select(CorrectionClaim.id)
        .where(CorrectionClaim.item_id == CorrectionItem.id, CorrectionClaim.person == person)
        .exists()
    )
