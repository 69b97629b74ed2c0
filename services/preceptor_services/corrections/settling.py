"""What counts: one version becomes authoritative, or none is any more.

Called with the item locked. Each change is told to trainers, as the last thing that its transaction
does: on PostgreSQL that takes the one-writer lock, which nobody may hold who waits for an item.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from preceptor_clients.corrections import RoundSettings
from preceptor_services.store import correction_claims as claims
from preceptor_services.store import correction_items as items
from preceptor_services.store import correction_results as results
from preceptor_services.store import correction_versions as versions
from preceptor_services.store.correction_items import ItemRow
from preceptor_services.store.correction_versions import VersionRow


async def conclude(conn: AsyncConnection, item: ItemRow, now: float) -> str:
    """After a version came in: settles the item where its round's rule can; its state then."""
    standing = await versions.standing(conn, item.id)
    if item.state != "open" or len(standing) < item.wanted:
        return item.state
    [round_row] = await items.rounds(conn, [item.round])
    rule = RoundSettings.model_validate(round_row.settings).review
    if rule == "always" or (rule == "disagreement" and await _differ(conn, item.id, standing)):
        await items.change(conn, item.id, state="review", updated_at=now)
        return "review"
    await settle(conn, item, standing[0], reviewer=None, now=now)
    return "done"


async def _differ(conn: AsyncConnection, item_id: str, standing: Sequence[VersionRow]) -> bool:
    if len(standing) < 2:
        return False
    return not agree(standing, (await items.documents(conn, [item_id]))[item_id])


def agree(standing: Sequence[VersionRow], document: dict[str, Any]) -> bool:
    """Whether all versions come to the same: one final text, or remarks only."""
    return len({final_text(version, document) for version in standing}) == 1


def final_text(version: VersionRow, document: dict[str, Any]) -> str | None:
    """What the response should be; None where only a remark was made."""
    if version.decision == "comment":
        return None
    return document["response_text"] if version.text is None else version.text


async def settle(
    conn: AsyncConnection, item: ItemRow, version: VersionRow, *, reviewer: str | None, now: float
) -> None:
    """Makes `version` the one that counts."""
    await claims.end_all(conn, item.id, ("active",), "withdrawn", now)
    await items.change(conn, item.id, state="done", authoritative=version.id, updated_at=now)
    await claims.recount(conn, item.id)
    if item.authoritative == version.id:
        return
    told = await results.any_of(conn, item.id)
    if told:
        await results.ask_again(conn, item.id, version.id, now)
    await results.add(
        conn,
        kind="revised" if told else "settled",
        item_id=item.id,
        run=item.run,
        version_id=version.id,
        reviewer=reviewer,
        now=now,
    )


async def end(conn: AsyncConnection, item: ItemRow, *, reviewer: str, now: float) -> None:
    """Closes the item without a version."""
    await claims.end_all(conn, item.id, ("active",), "withdrawn", now)
    await items.change(conn, item.id, state="ended", authoritative=None, updated_at=now)
    await claims.recount(conn, item.id)
    kind = "settled" if item.authoritative is None else "retired"
    await results.add(
        conn,
        kind=kind,
        item_id=item.id,
        run=item.run,
        version_id=item.authoritative,
        reviewer=reviewer,
        now=now,
    )


async def unsettle(
    conn: AsyncConnection, item: ItemRow, *, state: str, reviewer: str | None, now: float
) -> None:
    """Sends the item back, to the queue (`open`) or to reviewers (`review`)."""
    await items.change(conn, item.id, state=state, authoritative=None, updated_at=now)
    await claims.recount(conn, item.id)
    if item.authoritative is None:
        return
    await results.add(
        conn,
        kind="retired",
        item_id=item.id,
        run=item.run,
        version_id=item.authoritative,
        reviewer=reviewer,
        now=now,
    )
