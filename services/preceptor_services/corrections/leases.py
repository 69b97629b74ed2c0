"""What a claim entitles to: whose it is, whether it is in force, whether it comes back."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection

from preceptor_clients.errors import Conflict, NotFound
from preceptor_services.store import correction_claims as claims
from preceptor_services.store.correction_claims import ClaimRow, HeldRow


async def own(conn: AsyncConnection, person: str, claim_id: str) -> HeldRow:
    """The claim with its item locked.

    Raises:
        NotFound: they have no such claim.
    """
    await claims.lock_items(conn, [claim_id])
    return must_own((await claims.with_items(conn, [claim_id])).get(claim_id), person, claim_id)


def must_own(held: HeldRow | None, person: str, claim_id: str) -> HeldRow:
    """The claim, which must be this person's."""
    if held is None or held.claim.person != person:
        raise NotFound(f"no claim {claim_id!r} of yours", field="claim")
    return held


def must_hold(claim: ClaimRow) -> None:
    """The claim must be in force."""
    if claim.state != "active":
        raise Conflict(f"the claim is {claim.state}", field="claim")


async def revive(conn: AsyncConnection, held: HeldRow) -> None:
    """Makes an expired claim active again where its place is still free.

    Raises:
        Conflict: it is not, or the claim ended otherwise; nothing was written.
    """
    claim, item = held.claim, held.item
    if claim.state == "expired" and item.state == "open" and item.num_live < item.wanted:
        others = await claims.of_item(conn, item.id)
        if not any(row.person == claim.person and row.state in claims.LIVE for row in others):
            await claims.change(conn, claim.id, state="active", ended_at=None)
            await claims.count_places(conn, {item.id: 1})
            return
    if claim.state == "expired":
        raise Conflict("the lease ran out and somebody else has the item", field="claim")
    must_hold(claim)
