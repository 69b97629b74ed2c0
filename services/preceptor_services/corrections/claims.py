"""Gives items out. Requests that arrive while a transaction runs share the next one.

One transaction serves all of them, so that most round trips to the database are made once for
many requests. A request that arrives alone does not wait. Each request is decided in turn, from
what the requests before it have left.

Also checks claims: the person they belong to, whether they are in force, whether an expired one can
be renewed.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from preceptor_clients.contract.corrections import RoundSettings
from preceptor_clients.contract.errors import Conflict, NotFound
from preceptor_services.kit.clock import Clock
from preceptor_services.kit.group_commit import GroupCommit
from preceptor_services.store.corrections import claims as claims
from preceptor_services.store.corrections import people as people
from preceptor_services.store.corrections.claims import ClaimRow, HeldRow
from preceptor_services.store.database import Connection, Database

MAX_HELD: Final = 20
"""Most claims in force that one person may hold."""


Given = ClaimRow | Exception | None
"""A claim, a refusal, or None where no item is left."""


class Wish(NamedTuple):
    """A request for an item: of one round, a named item, or any."""

    person: str
    round_name: str | None
    item_id: str | None


class ItemClaims:
    """Gives items out under leases."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._give = GroupCommit(self._give_all)

    async def __call__(self, wish: Wish) -> ClaimRow | None:
        """The next item under a new lease; None where nothing is left.

        Raises:
            Conflict: the person holds too many claims, or the named item cannot be claimed.
        """
        return await self._give(wish)

    async def _give_all(self, wishes: Sequence[Wish]) -> list[Given]:
        now = self._clock.now()
        given: dict[int, Given] = {}
        async with self._database.write_locked() as conn:
            names = sorted({wish.person for wish in wishes})
            await people.lock(conn, names)
            held, overdue = await claims.count_active(conn, names, now)
            if overdue:
                await claims.expire(conn, now)
            for some in _alike(wishes):
                given |= await _share_out(conn, some, held, now)
            for n, wish in enumerate(wishes):
                if n not in given:
                    given[n] = await _take_one(conn, wish, held, now)
        return [given[n] for n in range(len(wishes))]


def _alike(wishes: Sequence[Wish]) -> list[dict[int, Wish]]:
    """Wishes for any item of the same round, by index; only groups of several."""
    groups: dict[str | None, dict[int, Wish]] = {}
    for n, wish in enumerate(wishes):
        if wish.item_id is None:
            groups.setdefault(wish.round_name, {})[n] = wish
    return [group for group in groups.values() if len(group) > 1]


async def _share_out(
    conn: Connection, wishes: Mapping[int, Wish], held: Counter[str], now: float
) -> dict[int, Given]:
    """Gives each person the first free item, of one round or of all, that they may claim.

    People who may claim none of the items looked at are left out, unless there are no others.
    """
    [round_name] = {wish.round_name for wish in wishes.values()}
    found = await claims.first_free(conn, len(wishes), round_name)
    given: dict[int, Given] = {}
    names = sorted({wish.person for wish in wishes.values()})
    barred: set[tuple[str, str]] = set()
    if found:
        barred = await claims.barred(conn, [row.item_id for row in found], names)
    free = Counter({row.item_id: row.num_free for row in found})
    new: list[ClaimRow] = []
    for n, (person, _, _) in wishes.items():
        if held[person] >= MAX_HELD:
            given[n] = _too_many()
            continue
        rows = (r for r in found if free[r.item_id] and (r.item_id, person) not in barred)
        if (first := next(rows, None)) is not None:
            given[n] = row = _claim(first.item_id, first.settings, person, now)
            new.append(row)
            free[row.item_id] -= 1
            held[person] += 1
            barred.add((row.item_id, person))
        elif len(found) < len(wishes):
            given[n] = None
    if new:
        await claims.add(conn, new)
        await claims.count_places(conn, Counter(row.item_id for row in new))
    return given


async def _take_one(conn: Connection, wish: Wish, held: Counter[str], now: float) -> Given:
    if held[wish.person] >= MAX_HELD:
        return _too_many()
    found = await claims.take(conn, wish.person, round_name=wish.round_name, item_id=wish.item_id)
    if found is None:
        if wish.item_id is None:
            return None
        return Conflict(f"item {wish.item_id} cannot be claimed", field="item")
    row = _claim(*found, wish.person, now)
    await claims.add(conn, [row])
    held[wish.person] += 1
    return row


def _too_many() -> Conflict:
    return Conflict(f"you hold {MAX_HELD} items already", field="claim")


def _claim(item_id: str, settings: dict[str, Any], person: str, now: float) -> ClaimRow:
    return ClaimRow(
        id=f"cc-{uuid.uuid4().hex}",
        item_id=item_id,
        person=person,
        state="active",
        claimed_at=now,
        lease_until=now + RoundSettings.model_validate(settings).lease_s,
        ended_at=None,
        reason=None,
    )


async def own(conn: Connection, person: str, claim_id: str) -> HeldRow:
    """The claim with its item locked.

    Raises:
        NotFound: the person has no such claim.
    """
    await claims.lock_items(conn, [claim_id])
    return must_own((await claims.with_items(conn, [claim_id])).get(claim_id), person, claim_id)


def must_own(held: HeldRow | None, person: str, claim_id: str) -> HeldRow:
    """The claim, which must be this person's."""
    if held is None or held.claim.person != person:
        raise NotFound(f"you have no claim {claim_id!r}", field="claim")
    return held


def must_hold(claim: ClaimRow) -> None:
    """The claim must be in force."""
    if claim.state != "active":
        raise Conflict(f"the claim is {claim.state}", field="claim")


async def revive(conn: Connection, held: HeldRow) -> None:
    """Makes an expired claim active again where its place is still free.

    Raises:
        Conflict: the place is taken, or the claim ended otherwise; nothing was written.
    """
    claim, item = held.claim, held.item
    if claim.state == "expired" and item.state == "open" and item.num_live < item.wanted:
        others = await claims.of_item(conn, item.id)
        if not any(row.person == claim.person and row.state in claims.LIVE for row in others):
            await claims.change(conn, claim.id, state="active", ended_at=None)
            await claims.count_places(conn, {item.id: 1})
            return
    if claim.state == "expired":
        raise Conflict("the lease expired and another person has the item", field="claim")
    must_hold(claim)
