"""Queries about versions, reviews and drafts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from sqlalchemy import bindparam, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from preceptor_services.store.prepared import insert_new
from preceptor_services.store.sql import padded
from preceptor_services.store.tables.corrections import (
    CorrectionClaim,
    CorrectionDraft,
    CorrectionItem,
    CorrectionReview,
    CorrectionVersion,
)


class VersionRow(NamedTuple):
    """One submission of one person."""

    id: str
    item_id: str
    claim_id: str | None
    person: str
    decision: str
    text: str | None
    text_sha256: str | None
    comment: str | None
    created_at: float
    retired_at: float | None


class ReviewRow(NamedTuple):
    """One decision of one reviewer."""

    id: str
    item_id: str
    reviewer: str
    verdict: str
    version_id: str | None
    comment: str | None
    created_at: float


class DraftRow(NamedTuple):
    """Unfinished work."""

    text: str | None
    comment: str | None
    revision: int
    saved_at: float


_VERSION = tuple(getattr(CorrectionVersion, name) for name in VersionRow._fields)
_REVIEW = tuple(getattr(CorrectionReview, name) for name in ReviewRow._fields)
_ADD: Final = insert(CorrectionVersion)
_OF_ITEMS: Final = (
    select(*_VERSION)
    .where(CorrectionVersion.item_id.in_(bindparam("items")))
    .order_by(CorrectionVersion.serial)
)
_STANDING: Final = (
    select(*_VERSION)
    .join(CorrectionClaim, CorrectionClaim.id == CorrectionVersion.claim_id)
    .where(
        CorrectionVersion.item_id.in_(bindparam("items")),
        CorrectionClaim.state == "submitted",
        CorrectionVersion.retired_at.is_(None),
    )
    .order_by(CorrectionVersion.serial)
)
_DRAFT: Final = select(
    CorrectionDraft.text,
    CorrectionDraft.comment,
    CorrectionDraft.revision,
    CorrectionDraft.saved_at,
).where(CorrectionDraft.item_id == bindparam("item"), CorrectionDraft.person == bindparam("who"))
_DROP_DRAFT: Final = delete(CorrectionDraft).where(
    CorrectionDraft.item_id == bindparam("item"), CorrectionDraft.person == bindparam("who")
)


async def add(conn: AsyncConnection, rows: Sequence[VersionRow]) -> None:
    await conn.execute(_ADD, [row._asdict() for row in rows])


async def add_unknown(conn: AsyncConnection, rows: Sequence[VersionRow]) -> None:
    """Those of `rows` whose ids are new."""
    await insert_new(conn, CorrectionVersion, [row._asdict() for row in rows])


async def known_ids(conn: AsyncConnection, ids: Sequence[str]) -> set[str]:
    """Those of `ids` that exist."""
    query = select(CorrectionVersion.id).where(CorrectionVersion.id.in_(ids))
    return set((await conn.execute(query)).scalars())


async def find(conn: AsyncConnection, version_id: str) -> VersionRow | None:
    row = (await conn.execute(select(*_VERSION).where(CorrectionVersion.id == version_id))).first()
    return None if row is None else VersionRow(*row)


async def last_of(conn: AsyncConnection, claim_id: str) -> VersionRow:
    """The last version of a claim that was submitted."""
    query = (
        select(*_VERSION)
        .where(CorrectionVersion.claim_id == claim_id)
        .order_by(CorrectionVersion.serial.desc())
        .limit(1)
    )
    return VersionRow(*(await conn.execute(query)).one())


async def of_items(conn: AsyncConnection, item_ids: Sequence[str]) -> dict[str, list[VersionRow]]:
    """Every version of these items, the first one first."""
    found: dict[str, list[VersionRow]] = {item_id: [] for item_id in item_ids}
    for row in await conn.execute(_OF_ITEMS, {"items": padded(item_ids)}):
        found[row.item_id].append(VersionRow(*row))
    return found


async def standing(conn: AsyncConnection, item_ids: Sequence[str]) -> dict[str, list[VersionRow]]:
    """The last version of each claim that counts as submitted, the first claim's first, by item."""
    rows = await conn.execute(_STANDING, {"items": padded(item_ids)})
    last = {row.claim_id: VersionRow(*row) for row in rows}
    found: dict[str, list[VersionRow]] = {item_id: [] for item_id in item_ids}
    for version in last.values():
        found[version.item_id].append(version)
    return found


async def count_by_decision(conn: AsyncConnection) -> dict[str, int]:
    """Number of versions by decision, including replaced and retired ones."""
    query = select(CorrectionVersion.decision, func.count()).group_by(CorrectionVersion.decision)
    return {row[0]: row[1] for row in await conn.execute(query)}


async def count_decisions(conn: AsyncConnection, person: str) -> dict[str, int]:
    """Standing versions of one person by decision."""
    rows = await conn.execute(
        select(CorrectionVersion.claim_id, CorrectionVersion.decision)
        .join(CorrectionClaim, CorrectionClaim.id == CorrectionVersion.claim_id)
        .where(CorrectionVersion.person == person, CorrectionClaim.state == "submitted")
        .order_by(CorrectionVersion.serial)
    )
    last: dict[str | None, str] = {row[0]: row[1] for row in rows}
    counts: dict[str, int] = {}
    for decision in last.values():
        counts[decision] = counts.get(decision, 0) + 1
    return counts


async def count_submitted(conn: AsyncConnection, item_ids: Sequence[str]) -> dict[str, int]:
    """Claims that count as submitted, by item."""
    query = (
        select(CorrectionClaim.item_id, func.count())
        .where(CorrectionClaim.item_id.in_(item_ids), CorrectionClaim.state == "submitted")
        .group_by(CorrectionClaim.item_id)
    )
    return {row[0]: row[1] for row in await conn.execute(query)}


async def doubles(conn: AsyncConnection, round_name: str) -> dict[str, list[VersionRow]]:
    """Standing versions of a round's items, those of retired people left out."""
    query = (
        select(*_VERSION)
        .join(CorrectionItem, CorrectionItem.id == CorrectionVersion.item_id)
        .join(CorrectionClaim, CorrectionClaim.id == CorrectionVersion.claim_id)
        .where(
            CorrectionItem.round == round_name,
            CorrectionClaim.state == "submitted",
            CorrectionVersion.retired_at.is_(None),
        )
        .order_by(CorrectionVersion.serial)
    )
    last: dict[tuple[str, str], VersionRow] = {}
    for row in await conn.execute(query):
        last[(row.item_id, row.person)] = VersionRow(*row)
    found: dict[str, list[VersionRow]] = {}
    for (item_id, _), version in last.items():
        found.setdefault(item_id, []).append(version)
    return found


async def retire(conn: AsyncConnection, person: str, now: float) -> list[VersionRow]:
    """Marks every version of one person as retired; returns those newly marked."""
    theirs = (CorrectionVersion.person == person, CorrectionVersion.retired_at.is_(None))
    query = select(*_VERSION).where(*theirs).order_by(CorrectionVersion.serial)
    fresh = [VersionRow(*row) for row in await conn.execute(query)]
    await conn.execute(update(CorrectionVersion).where(*theirs).values(retired_at=now))
    return fresh


async def authoritative_with_text(
    conn: AsyncConnection, prompt_sha256: str, text_hash: str
) -> list[VersionRow]:
    """Authoritative versions with this text, of items with this prompt."""
    query = (
        select(*_VERSION)
        .join(CorrectionItem, CorrectionItem.authoritative == CorrectionVersion.id)
        .where(
            CorrectionItem.prompt_sha256 == prompt_sha256,
            CorrectionVersion.text_sha256 == text_hash,
        )
        .order_by(CorrectionVersion.serial)
    )
    return [VersionRow(*row) for row in await conn.execute(query)]


# ---------------------------------------------------------------- reviews


async def add_review(conn: AsyncConnection, row: ReviewRow) -> None:
    await conn.execute(insert(CorrectionReview), [row._asdict()])


async def reviews(conn: AsyncConnection, item_ids: Sequence[str]) -> dict[str, list[ReviewRow]]:
    """Every decision on these items, the first one first."""
    query = (
        select(*_REVIEW)
        .where(CorrectionReview.item_id.in_(item_ids))
        .order_by(CorrectionReview.serial)
    )
    found: dict[str, list[ReviewRow]] = {item_id: [] for item_id in item_ids}
    for row in await conn.execute(query):
        found[row.item_id].append(ReviewRow(*row))
    return found


async def upheld(conn: AsyncConnection, round_name: str) -> list[tuple[str, bool]]:
    """(person, whether theirs was chosen) of each version of the items that a reviewer approved."""
    query = (
        select(CorrectionVersion.person, CorrectionVersion.id, CorrectionItem.authoritative)
        .join(CorrectionItem, CorrectionItem.id == CorrectionVersion.item_id)
        .where(
            CorrectionItem.round == round_name,
            CorrectionItem.state == "done",
            CorrectionVersion.claim_id.is_not(None),
            CorrectionItem.id.in_(
                select(CorrectionReview.item_id).where(CorrectionReview.verdict == "approve")
            ),
        )
    )
    return [(row[0], row[1] == row[2]) for row in await conn.execute(query)]


# ---------------------------------------------------------------- drafts


async def draft(conn: AsyncConnection, item_id: str, person: str) -> DraftRow | None:
    """One person's unfinished work on an item."""
    row = (await conn.execute(_DRAFT, {"item": item_id, "who": person})).first()
    return None if row is None else DraftRow(*row)


async def save_draft(conn: AsyncConnection, item_id: str, person: str, row: DraftRow) -> bool:
    """Saves a draft; False if the stored draft is not at the revision before `row`'s."""
    values = row._asdict()
    if row.revision == 1:
        await insert_new(
            conn, CorrectionDraft, [{"item_id": item_id, "person": person, **values, "revision": 0}]
        )
    changed = await conn.execute(
        update(CorrectionDraft)
        .where(
            CorrectionDraft.item_id == item_id,
            CorrectionDraft.person == person,
            CorrectionDraft.revision == row.revision - 1,
        )
        .values(**values)
    )
    return changed.rowcount == 1


async def drop_drafts(conn: AsyncConnection, of: Sequence[tuple[str, str]]) -> None:
    """Deletes the drafts of these (item, person) pairs."""
    await conn.execute(_DROP_DRAFT, [{"item": item, "who": person} for item, person in of])


async def ids_of(conn: AsyncConnection, person: str) -> list[str]:
    """Every version of one person, the first one first."""
    query = (
        select(CorrectionVersion.id)
        .where(CorrectionVersion.person == person)
        .order_by(CorrectionVersion.serial)
    )
    return list((await conn.execute(query)).scalars())
