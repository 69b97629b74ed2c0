"""People's work on items: claims with leases, versions, skips and flags, drafts.

Every rule is enforced in a transaction: who may claim an item, how many people, until when. The
page enforces none.
"""

from __future__ import annotations

from preceptor_clients.contract.corrections import Draft, DraftSave, RoundSettings, Submission
from preceptor_clients.contract.errors import Conflict, NotFound
from preceptor_services.corrections.claims import ItemClaims, Wish, must_hold, own, revive
from preceptor_services.corrections.submissions import HandingIn, Sent, Taken
from preceptor_services.kit.clock import Clock
from preceptor_services.store.corrections import claims as claims
from preceptor_services.store.corrections import items as items
from preceptor_services.store.corrections import versions as versions
from preceptor_services.store.corrections.claims import ClaimRow, HeldRow
from preceptor_services.store.corrections.versions import DraftRow
from preceptor_services.store.database import Connection, Database


class Work:
    def __init__(self, *, database: Database, clock: Clock) -> None:
        self.database = database
        self.clock = clock
        self._claiming = ItemClaims(database, clock)
        self._handing_in = HandingIn(database, clock)

    # ------------------------------------------------------------ leases

    async def claim(
        self, person: str, *, round_name: str | None = None, item_id: str | None = None
    ) -> ClaimRow | None:
        """The next item for `person`, under a new lease; None where nothing is left.

        Raises:
            Conflict: the person holds too many claims, or the named item cannot be claimed.
        """
        return await self._claiming(Wish(person, round_name, item_id))

    async def renew(self, person: str, claim_id: str) -> ClaimRow:
        """Renews the lease from now on; an expired one only if its place at the item is free."""
        now = self.clock.now()
        async with self.database.write_locked() as conn:
            held = await own(conn, person, claim_id)
            await revive(conn, held)
            lease_s = RoundSettings.model_validate(held.settings).lease_s
            await claims.change(conn, claim_id, lease_until=now + lease_s)
        return held.claim._replace(state="active", lease_until=now + lease_s)

    async def release(self, person: str, claim_id: str) -> None:
        """Gives the item back; anyone may claim it next, this person included."""
        async with self.database.write_locked() as conn:
            held = await own(conn, person, claim_id)
            if held.claim.state == "active":
                await self._end(conn, held, "released", None)

    async def skip(self, person: str, claim_id: str, reason: str) -> None:
        """Leaves the item to other people; after too many skips it goes to a reviewer."""
        async with self.database.write_locked() as conn:
            held = await own(conn, person, claim_id)
            if held.claim.state == "skipped":
                return
            must_hold(held.claim)
            await self._end(conn, held, "skipped", reason)
            item = held.item
            most = RoundSettings.model_validate(held.settings).max_skips
            history = await claims.of_item(conn, item.id)
            skipped_by = {row.person for row in history if row.state == "skipped"}
            if item.state == "open" and len(skipped_by) >= most:
                await items.change(conn, item.id, state="review", updated_at=self.clock.now())

    async def flag(self, person: str, claim_id: str, reason: str) -> None:
        """Reports a fault in the item itself and sends it to a reviewer."""
        async with self.database.write_locked() as conn:
            held = await own(conn, person, claim_id)
            if held.claim.state == "flagged":
                return
            must_hold(held.claim)
            await self._end(conn, held, "flagged", reason)
            if held.item.state == "open":
                now = self.clock.now()
                await items.change(conn, held.item.id, state="review", updated_at=now)

    async def _end(self, conn: Connection, held: HeldRow, to: str, reason: str | None) -> None:
        now = self.clock.now()
        await claims.change(conn, held.claim.id, state=to, ended_at=now, reason=reason)
        await claims.count_places(conn, {held.item.id: -1})

    # ------------------------------------------------------------ versions

    async def submit(self, person: str, claim_id: str, sent: Submission) -> Taken:
        """Hands a version in; returns it with the item's new state.

        Raises:
            NotFound: the person has no such claim.
            Conflict: the place was taken, or the item is settled; the text is kept as a draft.
        """
        return await self._handing_in(Sent(person, claim_id, sent))

    # ------------------------------------------------------------ drafts

    async def save_draft(self, person: str, item_id: str, sent: DraftSave) -> Draft:
        """Saves unfinished work.

        Raises:
            Conflict: the draft was saved elsewhere since `revision`.
        """
        now = self.clock.now()
        row = DraftRow(sent.text, sent.comment, sent.revision + 1, now)
        async with self.database.write_locked() as conn:
            if await items.find(conn, item_id) is None:
                raise NotFound(f"no item {item_id!r}", field="item")
            if not await versions.save_draft(conn, item_id, person, row):
                raise Conflict(
                    "another window has saved this draft since it was loaded", field="revision"
                )
        return Draft(text=row.text, comment=row.comment, revision=row.revision, saved_at=now)

    async def drop_draft(self, person: str, item_id: str) -> None:
        async with self.database.write_locked() as conn:
            await versions.drop_drafts(conn, [(item_id, person)])
