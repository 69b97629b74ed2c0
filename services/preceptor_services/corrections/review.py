"""Reviewers decide: approve one version, send the item back, or close it without one."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from preceptor_clients.contract.corrections import Decide
from preceptor_clients.contract.errors import Conflict, NotFound
from preceptor_services.corrections.settle import end, overrule, unsettle
from preceptor_services.corrections.submissions import new_version
from preceptor_services.kit.clock import Clock
from preceptor_services.store.corrections import claims as claims
from preceptor_services.store.corrections import items as items
from preceptor_services.store.corrections import versions as versions
from preceptor_services.store.corrections.items import ItemRow
from preceptor_services.store.corrections.versions import ReviewRow, VersionRow
from preceptor_services.store.database import Connection, Database

_TRIED = ("submitted", "skipped", "flagged")


@dataclass(frozen=True, kw_only=True)
class Reviewing:
    """Records the decisions of reviewers."""

    database: Database
    clock: Clock

    async def decide(self, reviewer: str, item_id: str, sent: Decide) -> None:
        """Records one decision, which holds until the next one.

        Raises:
            NotFound: no such item, or no such version of it.
            Conflict: the version is retired.
        """
        now = self.clock.now()
        async with self.database.write_locked() as conn:
            item = await items.lock(conn, item_id)
            if item is None:
                raise NotFound(f"no item {item_id!r}", field="item")
            chosen = await self._chosen(conn, reviewer, item, sent, now)
            review = ReviewRow(
                id=f"cr-{uuid.uuid4().hex}",
                item_id=item_id,
                reviewer=reviewer,
                verdict=sent.verdict,
                version_id=None if chosen is None else chosen.id,
                comment=sent.comment,
                created_at=now,
            )
            await versions.add_review(conn, review)
            if chosen is not None:
                await overrule(conn, item, chosen, reviewer=reviewer, now=now)
            elif sent.verdict == "discard":
                await end(conn, item, reviewer=reviewer, now=now)
            else:
                await claims.end_all(conn, [item_id], _TRIED, "returned", now)
                await unsettle(conn, item, state="open", reviewer=reviewer, now=now)

    async def _chosen(
        self, conn: Connection, reviewer: str, item: ItemRow, sent: Decide, now: float
    ) -> VersionRow | None:
        if sent.submission is not None:
            version = new_version(item.id, None, reviewer, sent.submission, now)
            await versions.add(conn, [version])
            return version
        if sent.version is None:
            return None
        version = await versions.find(conn, sent.version)
        if version is None or version.item_id != item.id:
            raise NotFound(f"item {item.id} has no version {sent.version!r}", field="version")
        if version.retired_at is not None:
            raise Conflict("the version is retired", field="version")
        return version
