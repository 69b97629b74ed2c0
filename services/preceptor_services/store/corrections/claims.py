"""Queries about claims: leases of items for people.

Order of locks: people by name, then items by serial, then claims. The search for a free item never
waits for a lock (`SKIP LOCKED`), so that two searches cannot deadlock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, Select, bindparam, case, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import aliased
from sqlalchemy.sql.dml import ReturningUpdate

from preceptor_services.store.corrections.items import ITEM, ItemRow
from preceptor_services.store.sql import padded
from preceptor_services.store.tables.corrections import (
    CorrectionClaim,
    CorrectionItem,
    CorrectionRound,
)

LIVE: Final = ("active", "submitted")
_BARRING: Final = (*LIVE, "skipped", "flagged")
_SWEPT_AT_ONCE: Final = 50


class ClaimRow(NamedTuple):
    """One claim."""

    id: str
    item_id: str
    person: str
    state: str
    claimed_at: float
    lease_until: float
    ended_at: float | None
    reason: str | None


class HeldRow(NamedTuple):
    """A claim with its item, and the settings of the item's round."""

    claim: ClaimRow
    item: ItemRow
    settings: dict[str, Any]


class FreeRow(NamedTuple):
    """An item with free places, and the settings of its round."""

    item_id: str
    num_free: int
    settings: dict[str, Any]


_COLUMNS: Final = tuple(getattr(CorrectionClaim, name) for name in ClaimRow._fields)
_ADD: Final = insert(CorrectionClaim)
_OVERDUE: Final = CorrectionClaim.lease_until <= bindparam("now")
_WHOSE: Final = case((_OVERDUE, None), else_=CorrectionClaim.person)
_COUNT_ACTIVE: Final = (
    select(_WHOSE, func.count())
    .where(
        CorrectionClaim.state == "active",
        or_(_OVERDUE, CorrectionClaim.person.in_(bindparam("people"))),
    )
    .group_by(_WHOSE)
)
_BARRED: Final = select(CorrectionClaim.item_id, CorrectionClaim.person).where(
    CorrectionClaim.item_id.in_(bindparam("items")),
    CorrectionClaim.person.in_(bindparam("people")),
    CorrectionClaim.state.in_(_BARRING),
)
_COUNT_PLACES: Final = (
    update(CorrectionItem)
    .where(CorrectionItem.id == bindparam("b_item"))
    .values(num_live=CorrectionItem.num_live + bindparam("b_count"))
)
_LOCK_ITEMS: Final = (
    select(CorrectionItem.id)
    .where(
        CorrectionItem.id.in_(
            select(CorrectionClaim.item_id).where(CorrectionClaim.id.in_(bindparam("ids")))
        )
    )
    .order_by(CorrectionItem.serial)
    .with_for_update(key_share=True)
)
_WITH_ITEMS: Final = (
    select(*_COLUMNS, *ITEM, CorrectionRound.settings)
    .join(CorrectionItem, CorrectionItem.id == CorrectionClaim.item_id)
    .join(CorrectionRound, CorrectionRound.name == CorrectionItem.round)
    .where(CorrectionClaim.id.in_(bindparam("ids")))
)
_SUBMIT: Final = (
    update(CorrectionClaim)
    .where(CorrectionClaim.id.in_(bindparam("ids")))
    .values(state="submitted", ended_at=bindparam("b_now"))
)
_END_ALL: Final = (
    update(CorrectionClaim)
    .where(
        CorrectionClaim.item_id.in_(bindparam("items")),
        CorrectionClaim.state.in_(bindparam("states")),
    )
    .values(state=bindparam("b_state"), ended_at=bindparam("b_now"))
)
_RECOUNT: Final = (
    update(CorrectionItem)
    .where(CorrectionItem.id.in_(bindparam("items")))
    .values(
        num_live=select(func.count())
        .where(CorrectionClaim.item_id == CorrectionItem.id, CorrectionClaim.state.in_(LIVE))
        .scalar_subquery()
    )
)


async def expire(conn: AsyncConnection, now: float) -> None:
    """Ends the leases that have run out, and frees their places."""
    overdue = (
        select(CorrectionClaim.id)
        .where(
            CorrectionClaim.item_id == CorrectionItem.id,
            CorrectionClaim.state == "active",
            CorrectionClaim.lease_until <= now,
        )
        .exists()
    )
    locked = (
        select(CorrectionItem.id)
        .where(overdue)
        .order_by(CorrectionItem.serial)
        .limit(_SWEPT_AT_ONCE)
        .with_for_update(skip_locked=True, key_share=True)
    )
    ids = list((await conn.execute(locked)).scalars())
    if not ids:
        return
    ended = await conn.execute(
        update(CorrectionClaim)
        .where(
            CorrectionClaim.item_id.in_(ids),
            CorrectionClaim.state == "active",
            CorrectionClaim.lease_until <= now,
        )
        .values(state="expired", ended_at=now)
        .returning(CorrectionClaim.item_id)
    )
    freed = Counter(ended.scalars())
    if freed:
        await count_places(conn, {item_id: -count for item_id, count in freed.items()})


def _free(item: type[CorrectionItem]) -> tuple[ColumnElement[bool], ...]:
    return (
        item.state == "open",
        item.num_live < item.wanted,
        CorrectionRound.closed.is_(False),
    )


def _available_to(
    person: str | ColumnElement[str], item: type[CorrectionItem] = CorrectionItem
) -> tuple[ColumnElement[bool], ...]:
    barred = (
        select(CorrectionClaim.id)
        .where(
            CorrectionClaim.item_id == item.id,
            CorrectionClaim.person == person,
            CorrectionClaim.state.in_(_BARRING),
        )
        .exists()
    )
    return (*_free(item), ~barred)


@cache
def _first_free(of_round: bool) -> Select[str, int, dict[str, Any]]:
    query = (
        select(
            CorrectionItem.id,
            CorrectionItem.wanted - CorrectionItem.num_live,
            CorrectionRound.settings,
        )
        .join(CorrectionRound, CorrectionRound.name == CorrectionItem.round)
        .where(*_free(CorrectionItem))
        .order_by(CorrectionItem.priority.desc(), CorrectionItem.serial)
        .limit(bindparam("most"))
        .with_for_update(skip_locked=True, key_share=True, of=CorrectionItem)
    )
    return query.where(CorrectionItem.round == bindparam("of_round")) if of_round else query


async def first_free(conn: AsyncConnection, most: int, round_name: str | None) -> list[FreeRow]:
    """The first items with free places, locked; of one round or of all."""
    asked = {"most": most} | ({} if round_name is None else {"of_round": round_name})
    rows = await conn.execute(_first_free(round_name is not None), asked)
    return [FreeRow(*row) for row in rows]


async def barred(
    conn: AsyncConnection, item_ids: Sequence[str], people: Sequence[str]
) -> set[tuple[str, str]]:
    """Pairs (item, person) for which the person may not claim the item again."""
    asked = {"items": padded(item_ids), "people": padded(people)}
    return {(row[0], row[1]) for row in await conn.execute(_BARRED, asked)}


async def count_places(conn: AsyncConnection, taken: Mapping[str, int]) -> None:
    """Adds to the taken places of each item (negative: frees them); the items are locked."""
    rows = [{"b_item": item_id, "b_count": count} for item_id, count in taken.items()]
    await conn.execute(_COUNT_PLACES, rows)


@cache
def _take(of_round: bool, of_item: bool) -> ReturningUpdate[str, Any]:
    """Locks the first free item, and counts one of its places as taken."""
    candidate = aliased(CorrectionItem)
    first = (
        select(candidate.id)
        .join(CorrectionRound, CorrectionRound.name == candidate.round)
        .where(*_available_to(bindparam("b_person"), candidate))
        .order_by(candidate.priority.desc(), candidate.serial)
        .limit(1)
        .with_for_update(skip_locked=True, key_share=True, of=candidate)
    )
    if of_round:
        first = first.where(candidate.round == bindparam("b_round"))
    if of_item:
        first = first.where(candidate.id == bindparam("b_item"))
    settings = select(CorrectionRound.settings).where(CorrectionRound.name == CorrectionItem.round)
    return (
        update(CorrectionItem)
        .where(CorrectionItem.id == first.scalar_subquery())
        .values(num_live=CorrectionItem.num_live + 1)
        .returning(CorrectionItem.id, settings.scalar_subquery())
    )


async def take(
    conn: AsyncConnection, person: str, *, round_name: str | None, item_id: str | None
) -> tuple[str, dict[str, Any]] | None:
    """The first item that `person` may claim, and the settings of its round.

    The place is counted at once and the item is locked, so the next search, in this transaction or
    another, does not find the place free. `add` stores the claim itself.
    """
    asked: dict[str, Any] = {"b_person": person}
    if round_name is not None:
        asked["b_round"] = round_name
    if item_id is not None:
        asked["b_item"] = item_id
    row = (await conn.execute(_take("b_round" in asked, "b_item" in asked), asked)).first()
    return None if row is None else (row[0], row[1])


async def count_available(conn: AsyncConnection, person: str) -> int:
    """Items that `person` could claim now."""
    query = (
        select(func.count())
        .select_from(CorrectionItem)
        .join(CorrectionRound, CorrectionRound.name == CorrectionItem.round)
        .where(*_available_to(person))
    )
    return (await conn.execute(query)).scalar_one()


async def add(conn: AsyncConnection, rows: Sequence[ClaimRow]) -> None:
    """Adds claims; `take` or `count_places` counts their places."""
    await conn.execute(_ADD, [row._asdict() for row in rows])


async def lock_items(conn: AsyncConnection, claim_ids: Sequence[str]) -> None:
    """Locks the items of these claims; required before a change of an item or its claims."""
    await conn.execute(_LOCK_ITEMS, {"ids": padded(claim_ids)})


async def with_items(conn: AsyncConnection, claim_ids: Sequence[str]) -> dict[str, HeldRow]:
    """Those of these claims that exist."""
    rows = await conn.execute(_WITH_ITEMS, {"ids": padded(claim_ids)})
    cut = len(_COLUMNS)
    return {row[0]: HeldRow(ClaimRow(*row[:cut]), ItemRow(*row[cut:-1]), row[-1]) for row in rows}


async def find(conn: AsyncConnection, claim_id: str) -> ClaimRow | None:
    row = (await conn.execute(select(*_COLUMNS).where(CorrectionClaim.id == claim_id))).first()
    return None if row is None else ClaimRow(*row)


async def change(conn: AsyncConnection, claim_id: str, **values: Any) -> None:
    """Changes columns of one claim."""
    await conn.execute(
        update(CorrectionClaim).where(CorrectionClaim.id == claim_id).values(**values)
    )


async def submit(conn: AsyncConnection, claim_ids: Sequence[str], now: float) -> None:
    """Marks these claims as submitted."""
    await conn.execute(_SUBMIT, {"ids": padded(claim_ids), "b_now": now})


async def end_all(
    conn: AsyncConnection, item_ids: Sequence[str], states: Sequence[str], to: str, now: float
) -> None:
    """Moves every claim of these items that is in one of `states`."""
    moved = {"items": padded(item_ids), "states": list(states), "b_state": to, "b_now": now}
    await conn.execute(_END_ALL, moved)


async def recount(conn: AsyncConnection, item_ids: Sequence[str]) -> None:
    """Recomputes the items' `num_live` from their claims."""
    await conn.execute(_RECOUNT, {"items": padded(item_ids)})


async def of_item(conn: AsyncConnection, item_id: str) -> list[ClaimRow]:
    """Every claim of an item, the first one first."""
    query = (
        select(*_COLUMNS)
        .where(CorrectionClaim.item_id == item_id)
        .order_by(CorrectionClaim.claimed_at, CorrectionClaim.id)
    )
    return [ClaimRow(*row) for row in await conn.execute(query)]


async def held_by(conn: AsyncConnection, person: str, now: float) -> list[ClaimRow]:
    """Claims in force of one person, the newest first."""
    query = (
        select(*_COLUMNS)
        .where(
            CorrectionClaim.person == person,
            CorrectionClaim.state == "active",
            CorrectionClaim.lease_until > now,
        )
        .order_by(CorrectionClaim.claimed_at.desc(), CorrectionClaim.id)
    )
    return [ClaimRow(*row) for row in await conn.execute(query)]


async def count_active(
    conn: AsyncConnection, people: Sequence[str], now: float
) -> tuple[Counter[str], int]:
    """Claims in force by person, and the number of claims that `expire` must end."""
    rows = await conn.execute(_COUNT_ACTIVE, {"people": padded(people), "now": now})
    found: dict[str | None, int] = {row[0]: row[1] for row in rows}
    overdue = found.pop(None, 0)
    return Counter({str(person): count for person, count in found.items()}), overdue


async def live_by(conn: AsyncConnection, person: str) -> list[ClaimRow]:
    """Claims of one person that occupy a place."""
    query = select(*_COLUMNS).where(
        CorrectionClaim.person == person, CorrectionClaim.state.in_(LIVE)
    )
    return [ClaimRow(*row) for row in await conn.execute(query)]


async def count_by_state(conn: AsyncConnection, person: str) -> dict[str, int]:
    """Items by the state of one person's claims on them."""
    query = (
        select(CorrectionClaim.state, func.count(CorrectionClaim.item_id.distinct()))
        .where(CorrectionClaim.person == person)
        .group_by(CorrectionClaim.state)
    )
    return {row[0]: row[1] for row in await conn.execute(query)}
