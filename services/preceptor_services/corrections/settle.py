"""Makes one version of an item authoritative, or none.

Called with the item locked. Each change is published to trainers at the very end of its
transaction: on PostgreSQL this takes the one-writer lock, and a transaction that holds it must not
wait for an item's lock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from preceptor_clients.contract.corrections import ReviewRule
from preceptor_services.store.corrections import claims as claims
from preceptor_services.store.corrections import items as items
from preceptor_services.store.corrections import results as results
from preceptor_services.store.corrections import versions as versions
from preceptor_services.store.corrections.items import ItemRow
from preceptor_services.store.corrections.results import Change
from preceptor_services.store.corrections.versions import VersionRow
from preceptor_services.store.database import Connection


async def conclude(
    conn: Connection, locked: Sequence[ItemRow], rules: Mapping[str, ReviewRule], now: float
) -> dict[str, str]:
    """Settles the items that their rounds' rules can settle; returns the states by item.

    Called after versions were added.
    """
    every = await versions.standing(conn, [item.id for item in locked])
    states = {item.id: item.state for item in locked}
    settled: list[tuple[ItemRow, VersionRow]] = []
    for item in locked:
        standing, rule = every[item.id], rules[item.id]
        if item.state != "open" or len(standing) < item.wanted:
            continue
        if rule == "always" or (rule == "disagreement" and await _differ(conn, item.id, standing)):
            await items.change(conn, item.id, state="review", updated_at=now)
            states[item.id] = "review"
        else:  # All wanted versions are in, and no more claims were given: no claim is active.
            settled.append((item, standing[0]))
            states[item.id] = "done"
    if settled:
        await settle(conn, settled, reviewer=None, now=now)
    return states


async def _differ(conn: Connection, item_id: str, standing: Sequence[VersionRow]) -> bool:
    if len(standing) < 2:
        return False
    return not agree(standing, (await items.documents(conn, [item_id]))[item_id])


def agree(standing: Sequence[VersionRow], document: dict[str, Any]) -> bool:
    """Whether all versions give the same result: one final text, or comments only."""
    return len({final_text(version, document) for version in standing}) == 1


def final_text(version: VersionRow, document: dict[str, Any]) -> str | None:
    """The corrected response; None for a comment."""
    if version.decision == "comment":
        return None
    return document["response_text"] if version.text is None else version.text


async def settle(
    conn: Connection,
    settled: Sequence[tuple[ItemRow, VersionRow]],
    *,
    reviewer: str | None,
    now: float,
) -> None:
    """Makes each version authoritative in its item; no claim on these items may be active."""
    await items.settle(conn, {item.id: version.id for item, version in settled}, now)
    fresh = [(item, v.id) for item, v in settled if item.authoritative != v.id]
    if not fresh:
        return
    told = await results.told_of(conn, [item.id for item, _ in fresh])
    for item, version_id in fresh:
        if item.id in told:
            await results.ask_again(conn, item.id, version_id, now)
    changes = [
        Change("revised" if item.id in told else "settled", item.id, item.run, version_id, reviewer)
        for item, version_id in fresh
    ]
    await results.add(conn, changes, now)


async def overrule(
    conn: Connection, item: ItemRow, version: VersionRow, *, reviewer: str, now: float
) -> None:
    """Makes a version authoritative by a reviewer's decision and withdraws the active claims."""
    await _withdraw(conn, item, now)
    await settle(conn, [(item, version)], reviewer=reviewer, now=now)


async def _withdraw(conn: Connection, item: ItemRow, now: float) -> None:
    await claims.end_all(conn, [item.id], ("active",), "withdrawn", now)
    await claims.recount(conn, [item.id])


async def end(conn: Connection, item: ItemRow, *, reviewer: str, now: float) -> None:
    """Closes the item without a version."""
    await _withdraw(conn, item, now)
    await items.change(conn, item.id, state="ended", authoritative=None, updated_at=now)
    kind = "settled" if item.authoritative is None else "retired"
    change = Change(kind, item.id, item.run, item.authoritative, reviewer)
    await results.add(conn, [change], now)


async def unsettle(
    conn: Connection, item: ItemRow, *, state: str, reviewer: str | None, now: float
) -> None:
    """Sends the item back, to the queue (`open`) or to reviewers (`review`)."""
    await items.change(conn, item.id, state=state, authoritative=None, updated_at=now)
    await claims.recount(conn, [item.id])
    if item.authoritative is None:
        return
    change = Change("retired", item.id, item.run, item.authoritative, reviewer)
    await results.add(conn, [change], now)
