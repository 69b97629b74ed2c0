"""Queries about claims: who may have which item, for how long.

Order of locks: person, then item, then claims. Looking for an item never waits for one
(`SKIP LOCKED`), so that two who look can never wait for each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from preceptor_services.store.correction_tables import (
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


_COLUMNS = tuple(getattr(CorrectionClaim, name) for name in ClaimRow._fields)


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
    for item_id, count in sorted(Counter(ended.scalars()).items()):
        await add_live(conn, item_id, -count)


async def any_overdue(conn: AsyncConnection, now: float) -> bool:
    """Whether `expire` has something to do."""
    query = (
        select(CorrectionClaim.id)
        .where(CorrectionClaim.state == "active", CorrectionClaim.lease_until <= now)
        .limit(1)
    )
    return (await conn.execute(query)).first() is not None


async def add_live(conn: AsyncConnection, item_id: str, change: int) -> None:
    """Counts places taken or freed, on a row that is locked."""
    await conn.execute(
        update(CorrectionItem)
        .where(CorrectionItem.id == item_id)
        .values(num_live=CorrectionItem.num_live + change)
    )


def _available_to(person: str) -> tuple[ColumnElement[bool], ...]:
    barred = (
        select(CorrectionClaim.id)
        .where(
            CorrectionClaim.item_id == CorrectionItem.id,
            CorrectionClaim.person == person,
            CorrectionClaim.state.in_(_BARRING),
        )
        .exists()
    )
    return (
        CorrectionItem.state == "open",
        CorrectionItem.num_live < CorrectionItem.wanted,
        CorrectionRound.closed.is_(False),
        ~barred,
    )


async def next_item(
    conn: AsyncConnection, person: str, *, round_name: str | None, item_id: str | None
) -> tuple[str, dict[str, Any]] | None:
    """The first item that `person` may have, locked, with the settings of its round."""
    query = (
        select(CorrectionItem.id, CorrectionRound.settings)
        .join(CorrectionRound, CorrectionRound.name == CorrectionItem.round)
        .where(*_available_to(person))
        .order_by(CorrectionItem.priority.desc(), CorrectionItem.serial)
        .limit(1)
        .with_for_update(skip_locked=True, key_share=True, of=CorrectionItem)
    )
    if round_name is not None:
        query = query.where(CorrectionItem.round == round_name)
    if item_id is not None:
        query = query.where(CorrectionItem.id == item_id)
    row = (await conn.execute(query)).first()
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


async def add(conn: AsyncConnection, row: ClaimRow) -> None:
    """A new claim; the item's place is counted beside it."""
    await conn.execute(insert(CorrectionClaim), [row._asdict()])
    await add_live(conn, row.item_id, 1)


async def find(conn: AsyncConnection, claim_id: str) -> ClaimRow | None:
    """One claim."""
    row = (await conn.execute(select(*_COLUMNS).where(CorrectionClaim.id == claim_id))).first()
    return None if row is None else ClaimRow(*row)


async def change(conn: AsyncConnection, claim_id: str, **values: Any) -> None:
    """Changes columns of one claim."""
    await conn.execute(
        update(CorrectionClaim).where(CorrectionClaim.id == claim_id).values(**values)
    )


async def end_all(
    conn: AsyncConnection, item_id: str, states: Sequence[str], to: str, now: float
) -> None:
    """Moves every claim of an item that is in one of `states`."""
    await conn.execute(
        update(CorrectionClaim)
        .where(CorrectionClaim.item_id == item_id, CorrectionClaim.state.in_(states))
        .values(state=to, ended_at=now)
    )


async def recount(conn: AsyncConnection, item_id: str) -> None:
    """Makes the item's count what its claims say."""
    live = (
        select(func.count())
        .where(CorrectionClaim.item_id == item_id, CorrectionClaim.state.in_(LIVE))
        .scalar_subquery()
    )
    await conn.execute(
        update(CorrectionItem).where(CorrectionItem.id == item_id).values(num_live=live)
    )


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


async def live_by(conn: AsyncConnection, person: str) -> list[ClaimRow]:
    """Claims of one person that take a place."""
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
