"""The part of an item, and of their own work, that a person may see.

Until an item is settled, an annotator must not learn how many people work on it, nor what the
others wrote: doubles are blind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from preceptor_clients.contract.corrections import (
    Claim,
    ClaimEvent,
    Draft,
    ItemPage,
    ItemState,
    ItemSummary,
    ItemView,
    Me,
    NewItem,
    Person,
    Progress,
    Review,
    Role,
    RoundSettings,
    Version,
)
from preceptor_clients.contract.corrections import ClaimState as State
from preceptor_clients.contract.errors import NotFound
from preceptor_services.kit.clock import Clock
from preceptor_services.store.corrections import claims as claims
from preceptor_services.store.corrections import items as items
from preceptor_services.store.corrections import people as people
from preceptor_services.store.corrections import versions as versions
from preceptor_services.store.corrections.claims import ClaimRow
from preceptor_services.store.corrections.items import ItemRow
from preceptor_services.store.corrections.people import PersonRow
from preceptor_services.store.corrections.versions import ReviewRow, VersionRow
from preceptor_services.store.database import Connection, Database


@dataclass(frozen=True, kw_only=True)
class Views:
    database: Database
    clock: Clock

    async def me(self, name: str) -> Me:
        """One person's own page."""
        now = self.clock.now()
        async with self.database.read() as conn:
            row = await people.find(conn, name)
            assert row is not None, "the key was checked before"
            return Me(
                person=person_of(row),
                progress=await self._progress(conn, name, now),
                settings=row.settings,
                now=now,
            )

    async def _progress(self, conn: Connection, name: str, now: float) -> Progress:
        states = await claims.count_by_state(conn, name)
        decisions = await versions.count_decisions(conn, name)
        by_state = await items.count_by_state(conn)
        return Progress(
            submitted=sum(decisions.values()),
            edited=decisions.get("edit", 0),
            accepted=decisions.get("accept", 0),
            commented=decisions.get("comment", 0),
            skipped=states.get("skipped", 0),
            flagged=states.get("flagged", 0),
            claimed=len(await claims.held_by(conn, name, now)),
            available=await claims.count_available(conn, name),
            to_review=sum(n for (_, state), n in by_state.items() if state == "review"),
        )

    async def claim(self, role: Role, claim: ClaimRow) -> Claim:
        """A claim with its item."""
        async with self.database.read() as conn:
            view, settings = await _item(conn, claim.item_id, claim.person, role)
        return Claim(
            id=claim.id,
            state=cast("State", claim.state),
            lease_until=claim.lease_until,
            lease_s=settings.lease_s,
            now=self.clock.now(),
            item=view,
        )

    async def held(self, person: str, role: Role) -> tuple[Claim, ...]:
        """The person's claims in force, with their items."""
        async with self.database.read() as conn:
            rows = await claims.held_by(conn, person, self.clock.now())
        return tuple([await self.claim(role, row) for row in rows])

    async def item(self, item_id: str, person: str, role: Role) -> ItemView:
        """One item.

        Raises:
            NotFound: it does not exist, or the annotator never had a claim on it.
        """
        async with self.database.read() as conn:
            if role == "annotator":
                history = await claims.of_item(conn, item_id)
                if not any(claim.person == person for claim in history):
                    raise NotFound(
                        f"no item {item_id!r} among those that you may see", field="item"
                    )
            view, _ = await _item(conn, item_id, person, role)
        return view

    async def page(
        self,
        person: str,
        role: Role,
        *,
        round_name: str | None,
        state: ItemState | None,
        run: str | None,
        mine: bool,
        after: int,
        limit: int,
    ) -> ItemPage:
        """Items, oldest first; annotators see only those that they worked on."""
        only = person if mine or role == "annotator" else None
        async with self.database.read() as conn:
            rows = await items.page(
                conn,
                round_name=round_name,
                state=state,
                run=run,
                worked_on_by=only,
                after=after,
                limit=limit,
            )
            submitted = await versions.count_submitted(conn, [row.id for row in rows])
            if role == "annotator":
                own = await versions.of_items(conn, [row.id for row in rows])
                submitted = {i: any(v.person == person for v in found) for i, found in own.items()}
        return ItemPage(
            items=tuple(summary(row, int(submitted.get(row.id, 0)), role) for row in rows),
            after=rows[-1].serial if len(rows) == limit else None,
        )


async def _item(
    conn: Connection, item_id: str, person: str, role: Role
) -> tuple[ItemView, RoundSettings]:
    found = await items.whole(conn, item_id)
    if found is None:
        raise NotFound(f"no item {item_id!r}", field="item")
    row, document = found.item, NewItem.model_validate(found.document)
    settings = RoundSettings.model_validate(found.settings)
    every = (await versions.of_items(conn, [item_id]))[item_id]
    draft = await versions.draft(conn, item_id, person)
    sees_all = role != "annotator"
    shown = [v for v in every if sees_all or v.person == person or v.id == row.authoritative]
    if sees_all:
        submitted = (await versions.count_submitted(conn, [item_id])).get(item_id, 0)
    else:
        submitted = int(any(v.person == person for v in every))
    view = ItemView(
        summary=summary(row, submitted, role),
        messages=document.prompt.messages,
        response_text=document.response_text,
        finish_reason=document.finish_reason,
        feedback=document.feedback,
        judged=document.judged(),
        guidelines=settings.guidelines,
        details=document.details,
        versions=tuple(
            version_of(v, row.authoritative, named=sees_all or v.person == person) for v in shown
        ),
        reviews=await _reviews(conn, item_id) if sees_all else (),
        history=await _history(conn, item_id) if sees_all else (),
        draft=Draft() if draft is None else Draft(**draft._asdict()),
        has_tokens=document.response_ids is not None,
    )
    return view, settings


def length_of(view: ItemView) -> int:
    """Approximate number of characters in an item."""
    texts = [view.response_text, view.guidelines, view.draft.text or ""]
    texts += [message.content for message in view.messages]
    texts += [item.text or "" for item in view.feedback]
    texts += [version.text or "" for version in view.versions]
    return sum(map(len, texts))


async def _reviews(conn: Connection, item_id: str) -> tuple[Review, ...]:
    rows = (await versions.reviews(conn, [item_id]))[item_id]
    return tuple(review_of(row) for row in rows)


async def _history(conn: Connection, item_id: str) -> tuple[ClaimEvent, ...]:
    return tuple(
        ClaimEvent(
            id=row.id,
            person=row.person,
            state=cast("State", row.state),
            claimed_at=row.claimed_at,
            ended_at=row.ended_at,
            reason=row.reason,
        )
        for row in await claims.of_item(conn, item_id)
    )


def summary(row: ItemRow, submitted: int, role: Role) -> ItemSummary:
    """One line of a list."""
    return ItemSummary(
        id=row.id,
        round=row.round,
        state=cast("ItemState", row.state),
        reason=row.reason,
        priority=row.priority,
        run=row.run,
        rollout_id=row.rollout_id,
        problem_id=row.problem_id,
        step=row.step,
        created_at=row.created_at,
        updated_at=row.updated_at,
        wanted=1 if role == "annotator" else row.wanted,
        submitted=submitted,
        excerpt=row.excerpt,
    )


def version_of(row: VersionRow, authoritative: str | None, *, named: bool = True) -> Version:
    """One version; without the author's name where the reader must not know it."""
    return Version(
        id=row.id,
        item=row.item_id,
        person=row.person if named else "somebody",
        decision=cast("Any", row.decision),
        text=row.text,
        comment=row.comment,
        created_at=row.created_at,
        authoritative=row.id == authoritative,
        retired=row.retired_at is not None,
    )


def review_of(row: ReviewRow) -> Review:
    return Review(
        id=row.id,
        reviewer=row.reviewer,
        verdict=cast("Literal['approve', 'reopen', 'discard']", row.verdict),
        version=row.version_id,
        comment=row.comment,
        created_at=row.created_at,
    )


def person_of(row: PersonRow) -> Person:
    return Person(
        name=row.name,
        role=cast("Role", row.role),
        created_at=row.created_at,
        revoked_at=row.revoked_at,
        retired_at=row.retired_at,
    )


def people_of(rows: Sequence[PersonRow]) -> tuple[Person, ...]:
    return tuple(person_of(row) for row in rows)
