"""Giving items out: who asks while others are served is served with the next ones, together.

One transaction gives to all of them, so that most of the trips to the database are made once for
many. Whoever asks alone waits for nobody. What one may have is decided for each in turn, against
rows that already show what the ones before got.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Final, NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from preceptor_clients.corrections import RoundSettings
from preceptor_clients.errors import Conflict
from preceptor_services.gateway.clock import Clock
from preceptor_services.gateway.group_commit import GroupCommit
from preceptor_services.store import correction_claims as claims
from preceptor_services.store import correction_people as people
from preceptor_services.store.correction_claims import ClaimRow
from preceptor_services.store.database import Database

MAX_HELD: Final = 20
"""Claims in force of one person."""


class Wish(NamedTuple):
    """Who wants an item, and which."""

    person: str
    round_name: str | None
    item_id: str | None


class Claiming:
    """Gives items out under leases."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._give = GroupCommit(self._give_all)

    async def __call__(self, wish: Wish) -> ClaimRow | None:
        """The next item under a new lease; None where nothing is left.

        Raises:
            Conflict: they hold too many, or the item that they named is not to be had.
        """
        return await self._give(wish)

    async def _give_all(self, wishes: Sequence[Wish]) -> list[ClaimRow | Exception | None]:
        now = self._clock.now()
        given: list[ClaimRow | Exception | None] = []
        new: list[ClaimRow] = []
        async with self._database.write_locked() as conn:
            names = sorted({wish.person for wish in wishes})
            await people.lock(conn, names)
            if await claims.any_overdue(conn, now):
                await claims.expire(conn, now)
            held = await claims.count_held(conn, names, now)
            for wish in wishes:
                if any(row.person == wish.person for row in new):
                    # What they have just got keeps them from a double's other place.
                    await claims.add(conn, new)
                    new = []
                if held[wish.person] >= MAX_HELD:
                    given.append(Conflict(f"you hold {MAX_HELD} items already", field="claim"))
                    continue
                row = await _take(conn, wish, now)
                if isinstance(row, ClaimRow):
                    held[wish.person] += 1
                    new.append(row)
                given.append(row)
            await claims.add(conn, new)
        return given


async def _take(conn: AsyncConnection, wish: Wish, now: float) -> ClaimRow | Conflict | None:
    found = await claims.take(conn, wish.person, round_name=wish.round_name, item_id=wish.item_id)
    if found is None:
        if wish.item_id is None:
            return None
        return Conflict(f"item {wish.item_id} is not to be had", field="item")
    item_id, settings = found
    return ClaimRow(
        id=f"cc-{uuid.uuid4().hex}",
        item_id=item_id,
        person=wish.person,
        state="active",
        claimed_at=now,
        lease_until=now + RoundSettings.model_validate(settings).lease_s,
        ended_at=None,
        reason=None,
    )
