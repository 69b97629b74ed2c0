"""The people's work: claims with leases, versions, skips and flags, drafts.

Every action is one transaction, and every rule is enforced in it: who may have an item, how many
work on it, until when. Nothing is left to the page.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from preceptor_clients.corrections import (
    Draft,
    DraftSave,
    RoundSettings,
    Submission,
    text_sha256,
)
from preceptor_clients.errors import Conflict, NotFound
from preceptor_services.corrections.settling import conclude
from preceptor_services.corrections.transactions import row_locked_write
from preceptor_services.gateway.clock import Clock
from preceptor_services.store import correction_claims as claims
from preceptor_services.store import correction_items as items
from preceptor_services.store import correction_people as people
from preceptor_services.store import correction_versions as versions
from preceptor_services.store.correction_claims import ClaimRow
from preceptor_services.store.correction_items import ItemRow
from preceptor_services.store.correction_versions import DraftRow, VersionRow
from preceptor_services.store.database import Database

MAX_HELD: Final = 20
"""Claims in force of one person."""


@dataclass(frozen=True, kw_only=True)
class Queue:
    """What people do with items."""

    database: Database
    clock: Clock

    # ------------------------------------------------------------ leases

    async def claim(
        self, person: str, *, round_name: str | None = None, item_id: str | None = None
    ) -> ClaimRow | None:
        """The next item for `person`, under a new lease; None where nothing is left.

        Raises:
            Conflict: they hold too many, or the item that they named is not to be had.
        """
        now = self.clock.now()
        async with row_locked_write(self.database) as conn:
            await people.lock(conn, person)
            if await claims.any_overdue(conn, now):
                await claims.expire(conn, now)
            if len(await claims.held_by(conn, person, now)) >= MAX_HELD:
                raise Conflict(f"you hold {MAX_HELD} items already", field="claim")
            found = await claims.next_item(conn, person, round_name=round_name, item_id=item_id)
            if found is None:
                if item_id is not None:
                    raise Conflict(f"item {item_id} is not to be had", field="item")
                return None
            chosen, settings = found
            lease_s = RoundSettings.model_validate(settings).lease_s
            row = ClaimRow(
                id=f"cc-{uuid.uuid4().hex}",
                item_id=chosen,
                person=person,
                state="active",
                claimed_at=now,
                lease_until=now + lease_s,
                ended_at=None,
                reason=None,
            )
            await claims.add(conn, row)
        return row

    async def renew(self, person: str, claim_id: str) -> ClaimRow:
        """A full lease from now on; a lease that ran out comes back where its place is free."""
        now = self.clock.now()
        async with row_locked_write(self.database) as conn:
            item, claim = await _own(conn, person, claim_id)
            await _revive(conn, item, claim, now)
            [round_row] = await items.rounds(conn, [item.round])
            lease_s = RoundSettings.model_validate(round_row.settings).lease_s
            await claims.change(conn, claim_id, lease_until=now + lease_s)
        return claim._replace(state="active", lease_until=now + lease_s)

    async def release(self, person: str, claim_id: str) -> None:
        """Gives the item back; whoever is next may have it, this person too."""
        async with row_locked_write(self.database) as conn:
            item, claim = await _own(conn, person, claim_id)
            if claim.state == "active":
                await self._end(conn, item, claim, "released", None)

    async def skip(self, person: str, claim_id: str, reason: str) -> None:
        """Leaves the item to others; too often skipped, it goes to a reviewer."""
        async with row_locked_write(self.database) as conn:
            item, claim = await _own(conn, person, claim_id)
            if claim.state == "skipped":
                return
            _must_hold(claim)
            await self._end(conn, item, claim, "skipped", reason)
            [round_row] = await items.rounds(conn, [item.round])
            most = RoundSettings.model_validate(round_row.settings).max_skips
            history = await claims.of_item(conn, item.id)
            skipped_by = {row.person for row in history if row.state == "skipped"}
            if item.state == "open" and len(skipped_by) >= most:
                await items.change(conn, item.id, state="review", updated_at=self.clock.now())

    async def flag(self, person: str, claim_id: str, reason: str) -> None:
        """Something is wrong with the item itself: a reviewer must look."""
        async with row_locked_write(self.database) as conn:
            item, claim = await _own(conn, person, claim_id)
            if claim.state == "flagged":
                return
            _must_hold(claim)
            await self._end(conn, item, claim, "flagged", reason)
            if item.state == "open":
                await items.change(conn, item.id, state="review", updated_at=self.clock.now())

    async def _end(
        self, conn: AsyncConnection, item: ItemRow, claim: ClaimRow, to: str, reason: str | None
    ) -> None:
        await claims.change(conn, claim.id, state=to, ended_at=self.clock.now(), reason=reason)
        await claims.add_live(conn, item.id, -1)

    # ------------------------------------------------------------ versions

    async def submit(self, person: str, claim_id: str, sent: Submission) -> tuple[VersionRow, str]:
        """Hands a version in; returns it with the item's state then.

        A lease that ran out does no harm as long as nobody else has taken the place. Otherwise the
        text is kept as the person's draft.

        Raises:
            Conflict: the place was taken, or the item is settled.
        """
        now = self.clock.now()
        try:
            async with row_locked_write(self.database) as conn:
                item, claim = await _own(conn, person, claim_id)
                if claim.state == "submitted":
                    last = await versions.last_of(conn, claim_id)
                    if _same(last, sent):
                        return last, item.state
                if item.state in ("done", "ended"):
                    raise Conflict("the item is settled", field="claim")
                if claim.state != "submitted":
                    await _revive(conn, item, claim, now)
                version = new_version(item.id, claim_id, person, sent, now)
                await versions.add(conn, version)
                await claims.change(conn, claim_id, state="submitted", ended_at=now)
                await versions.drop_draft(conn, item.id, person)
                return version, await conclude(conn, item, now)
        except Conflict:
            await self._keep(person, claim_id, sent)
            raise

    async def _keep(self, person: str, claim_id: str, sent: Submission) -> None:
        async with row_locked_write(self.database) as conn:
            claim = await claims.find(conn, claim_id)
            if claim is None or claim.person != person:
                return
            known = await versions.draft(conn, claim.item_id, person)
            row = DraftRow(
                sent.text, sent.comment, 1 + (known.revision if known else 0), self.clock.now()
            )
            await versions.save_draft(conn, claim.item_id, person, row)

    # ------------------------------------------------------------ drafts

    async def save_draft(self, person: str, item_id: str, sent: DraftSave) -> Draft:
        """Keeps unfinished work.

        Raises:
            Conflict: another window has saved since.
        """
        now = self.clock.now()
        row = DraftRow(sent.text, sent.comment, sent.revision + 1, now)
        async with row_locked_write(self.database) as conn:
            if await items.find(conn, item_id) is None:
                raise NotFound(f"no item {item_id!r}", field="item")
            if not await versions.save_draft(conn, item_id, person, row):
                raise Conflict("another window has saved since", field="revision")
        return Draft(text=row.text, comment=row.comment, revision=row.revision, saved_at=now)

    async def drop_draft(self, person: str, item_id: str) -> None:
        """Forgets unfinished work."""
        async with row_locked_write(self.database) as conn:
            await versions.drop_draft(conn, item_id, person)


def new_version(
    item_id: str, claim_id: str | None, person: str, sent: Submission, now: float
) -> VersionRow:
    """A row for what was handed in."""
    return VersionRow(
        id=f"cv-{uuid.uuid4().hex}",
        item_id=item_id,
        claim_id=claim_id,
        person=person,
        decision=sent.decision,
        text=sent.text,
        text_sha256=None if sent.text is None else text_sha256(sent.text),
        comment=sent.comment,
        created_at=now,
        retired_at=None,
    )


async def _own(conn: AsyncConnection, person: str, claim_id: str) -> tuple[ItemRow, ClaimRow]:
    """The claim with its item locked: read again after the lock, since it may have waited."""
    seen = await claims.find(conn, claim_id)
    if seen is None or seen.person != person:
        raise NotFound(f"no claim {claim_id!r} of yours", field="claim")
    item = await items.lock(conn, seen.item_id)
    claim = await claims.find(conn, claim_id)
    assert item is not None, "a foreign key"
    assert claim is not None, "claims are never deleted"
    return item, claim


def _must_hold(claim: ClaimRow) -> None:
    if claim.state != "active":
        raise Conflict(f"the claim is {claim.state}", field="claim")


async def _revive(conn: AsyncConnection, item: ItemRow, claim: ClaimRow, now: float) -> None:
    """Makes an expired claim active again where its place is still free."""
    if claim.state == "expired" and item.state == "open" and item.num_live < item.wanted:
        others = await claims.of_item(conn, item.id)
        if not any(row.person == claim.person and row.state in claims.LIVE for row in others):
            await claims.change(conn, claim.id, state="active", ended_at=None)
            await claims.add_live(conn, item.id, 1)
            return
    if claim.state == "expired":
        raise Conflict("the lease ran out and somebody else has the item", field="claim")
    _must_hold(claim)


def _same(version: VersionRow, sent: Submission) -> bool:
    return (version.decision, version.text, version.comment) == (
        sent.decision,
        sent.text,
        sent.comment,
    )
