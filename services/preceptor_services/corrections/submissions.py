"""Takes versions in. Versions that arrive while a transaction runs share the next one.

As in `claims.py`, one transaction takes many, and each is decided by itself. Two versions of one
item never share a transaction, since the second depends on the result of the first.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import NamedTuple

from preceptor_clients.contract.corrections import (
    ReviewRule,
    RoundSettings,
    Submission,
    text_sha256,
)
from preceptor_clients.contract.errors import Conflict, NotFound
from preceptor_services.corrections.claims import must_own, revive
from preceptor_services.corrections.settle import conclude
from preceptor_services.kit.clock import Clock
from preceptor_services.kit.group_commit import GroupCommit
from preceptor_services.store.corrections import claims as claims
from preceptor_services.store.corrections import versions as versions
from preceptor_services.store.corrections.claims import HeldRow
from preceptor_services.store.corrections.versions import DraftRow, VersionRow
from preceptor_services.store.database import Connection, Database

Taken = tuple[VersionRow, str]
"""A version, and its item's state then."""


class Sent(NamedTuple):
    """A version that a person hands in under a claim."""

    person: str
    claim_id: str
    submission: Submission


class HandingIn:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._take = GroupCommit(self._take_all)

    async def __call__(self, sent: Sent) -> Taken:
        """Hands one version in.

        An expired lease is accepted as long as its place at the item is free. Otherwise the text is
        kept as the person's draft.

        Raises:
            NotFound: the person has no such claim.
            Conflict: the place was taken, or the item is settled.
        """
        try:
            return await self._take(sent)
        except Conflict:
            await self._keep(sent)
            raise

    async def _take_all(self, group: Sequence[Sent]) -> list[Taken | Exception]:
        came: dict[int, Taken | Exception] = {}
        while left := [n for n in range(len(group)) if n not in came]:
            came |= await self._take_some({n: group[n] for n in left})
        return [came[n] for n in range(len(group))]

    async def _take_some(self, group: dict[int, Sent]) -> dict[int, Taken | Exception]:
        """Takes the first version of each item, in one transaction."""
        now = self._clock.now()
        came: dict[int, Taken | Exception] = {}
        new: dict[int, tuple[HeldRow, VersionRow]] = {}
        async with self._database.write_locked() as conn:
            claim_ids = list(dict.fromkeys(sent.claim_id for sent in group.values()))
            await claims.lock_items(conn, claim_ids)
            found = await claims.with_items(conn, claim_ids)
            seen: set[str] = set()
            for n, sent in group.items():
                try:
                    held = must_own(found.get(sent.claim_id), sent.person, sent.claim_id)
                    if held.item.id in seen:
                        continue
                    seen.add(held.item.id)
                    known = await _known(conn, held, sent)
                except (NotFound, Conflict) as refusal:
                    came[n] = refusal
                    continue
                if known is not None:
                    came[n] = known, held.item.state
                else:
                    item_id = held.item.id
                    row = new_version(item_id, sent.claim_id, sent.person, sent.submission, now)
                    new[n] = held, row
            if new:
                states = await _write(conn, list(new.values()), now)
                came |= {n: (row, states[row.item_id]) for n, (_, row) in new.items()}
        return came

    async def _keep(self, sent: Sent) -> None:
        async with self._database.write_locked() as conn:
            claim = await claims.find(conn, sent.claim_id)
            if claim is None or claim.person != sent.person:
                return
            known = await versions.draft(conn, claim.item_id, sent.person)
            revision = 1 + (known.revision if known else 0)
            text, comment = sent.submission.text, sent.submission.comment
            row = DraftRow(text, comment, revision, self._clock.now())
            await versions.save_draft(conn, claim.item_id, sent.person, row)


async def _known(conn: Connection, held: HeldRow, sent: Sent) -> VersionRow | None:
    """The equal version that exists already; None where this one is new and may be taken."""
    if held.claim.state == "submitted":
        last = await versions.last_of(conn, sent.claim_id)
        if _same(last, sent.submission):
            return last
    if held.item.state in ("done", "ended"):
        raise Conflict("the item is settled", field="claim")
    if held.claim.state != "submitted":
        await revive(conn, held)
    return None


async def _write(
    conn: Connection, new: Sequence[tuple[HeldRow, VersionRow]], now: float
) -> dict[str, str]:
    """Writes versions of different items, and concludes those items; their states by id."""
    await versions.add(conn, [row for _, row in new])
    await claims.submit(conn, [held.claim.id for held, _ in new], now)
    await versions.drop_drafts(conn, [(row.item_id, row.person) for _, row in new])
    rules: dict[str, ReviewRule] = {
        held.item.id: RoundSettings.model_validate(held.settings).review for held, _ in new
    }
    return await conclude(conn, [held.item for held, _ in new], rules, now)


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


def _same(version: VersionRow, sent: Submission) -> bool:
    return (version.decision, version.text, version.comment) == (
        sent.decision,
        sent.text,
        sent.comment,
    )
