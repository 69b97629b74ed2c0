"""Retires a person's corrections, lists the targets that used them, and rebuilds those targets.

Nothing is deleted. Versions are marked, items are reopened, trainers read the change through the
cursor of results, and each target that had a retired answer gets a successor built only from its
other components. The old target stays: steps have trained on it, and a trace must still find it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from preceptor_clients.contract.corrections import RetiredTarget, Retirement
from preceptor_clients.contract.errors import NotFound
from preceptor_clients.contract.fingerprint import content_hash
from preceptor_clients.targets.builder import Target, without_answers
from preceptor_services.corrections.settle import unsettle
from preceptor_services.kit.array_blobs import ArrayBlobs
from preceptor_services.kit.clock import Clock
from preceptor_services.store import services
from preceptor_services.store.corrections import claims as claims
from preceptor_services.store.corrections import items as items
from preceptor_services.store.corrections import people as people
from preceptor_services.store.corrections import results as results
from preceptor_services.store.corrections import versions as versions
from preceptor_services.store.corrections.results import Change, UsedRow
from preceptor_services.store.corrections.versions import VersionRow
from preceptor_services.store.database import Connection, Database
from preceptor_services.store.provenance import runs


@dataclass(frozen=True, kw_only=True)
class Retiring:
    """Retires a person's corrections."""

    database: Database
    clock: Clock
    array_blobs: ArrayBlobs

    async def retire(self, person: str, reason: str) -> Retirement:
        """Retires every version of `person`; a second call lists the same again.

        Raises:
            NotFound: no person has this name.
        """
        now = self.clock.now()
        async with self.database.write() as conn:
            row = await people.find(conn, person)
            if row is None:
                raise NotFound(f"no person is named {person!r}", field="person")
            if row.retired_at is None:
                ends = {"retired_at": now, "revoked_at": row.revoked_at or now}
                await people.change(conn, person, **ends, retired_reason=reason)
            fresh = await versions.retire(conn, person, now)
            reopened = await self._reopen(conn, person, fresh, now)
            await _ask_elsewhere(conn, fresh, now)
            every = await versions.ids_of(conn, person)
            used = await results.targets_with(conn, every) if every else []
            consumed = await results.steps_with(conn, [row.target_id for row in used])
        rebuilt = await self._rebuild(used, now)
        targets = _listed(used, consumed, rebuilt)
        return Retirement(
            person=person,
            versions=tuple(every),
            reopened=reopened,
            targets=targets,
            runs=tuple(sorted({run for steps in consumed.values() for run, _ in steps})),
        )

    async def _reopen(
        self, conn: Connection, person: str, fresh: Sequence[VersionRow], now: float
    ) -> int:
        """Ends the person's claims, and unsettles the items that their versions had settled."""
        held = await claims.live_by(conn, person)
        retired = {version.id for version in fresh}
        affected = sorted({claim.item_id for claim in held} | {v.item_id for v in fresh})
        if retired:
            affected += [
                item_id for item_id, _, _ in await results.shared_with(conn, list(retired))
            ]
        # All items are locked before the first change is published: publishing takes the writer's
        # lock, and a transaction that holds it must not wait for an item.
        locked = await items.lock_all(conn, affected) if affected else {}
        reopened = 0
        for item_id, item in locked.items():
            for claim in held:
                if claim.item_id == item_id:
                    await claims.change(conn, claim.id, state="withdrawn", ended_at=now)
            if item.authoritative in retired:
                others = (await versions.standing(conn, [item_id]))[item_id]
                state = "review" if others else "open"
                await unsettle(conn, item, state=state, reviewer=None, now=now)
                reopened += 1
            await claims.recount(conn, [item_id])
        return reopened

    async def _rebuild(self, used: Sequence[UsedRow], now: float) -> dict[str, str]:
        """Maps each old target to its successor, where other components are left."""
        rebuilt: dict[str, tuple[UsedRow, Target, list[str]]] = {}
        for target_id in dict.fromkeys(row.target_id for row in used):
            rows = [row for row in used if row.target_id == target_id]
            arrays: Any = (await self.array_blobs.read(rows[0].pack_sha256))[target_id]
            retired = [row.answer_id for row in rows]
            left = without_answers(Target.from_wire(rows[0].rollout_id, arrays), retired)
            if left is not None:
                rebuilt[target_id] = (rows[0], left, retired)
        if rebuilt:
            await self._write(rebuilt, now)
        return {old: target.id for old, (_, target, _) in rebuilt.items()}

    async def _write(
        self, rebuilt: Mapping[str, tuple[UsedRow, Target, list[str]]], now: float
    ) -> None:
        pack = await self.array_blobs.write({t.id: t.to_wire() for _, t, _ in rebuilt.values()})
        async with self.database.write() as conn:
            known = await runs.target_hashes(conn, [t.id for _, t, _ in rebuilt.values()])
            await services.add_blobs(conn, {pack.sha256: pack.size}, now)
            for old, (row, target, retired) in rebuilt.items():
                if target.id in known:
                    continue
                settings = row.settings | {"rebuilt_from": old, "without": retired}
                await runs.add_targets(
                    conn, [_target_row(row, target, settings, pack.sha256, now)], _answers(target)
                )


async def _ask_elsewhere(conn: Connection, fresh: Sequence[VersionRow], now: float) -> None:
    """Publishes items of other runs again that had got a retired version's answer.

    Their own item's version answers instead, and such a run drops the label at once. The items are
    locked.
    """
    shared = await results.shared_with(conn, [v.id for v in fresh]) if fresh else []
    for item_id, version_id, question in shared:
        await results.copy_question(conn, question, item_id, version_id, now)
    own = await items.lock_all(conn, sorted({s[0] for s in shared})) if shared else {}
    again = [Change("revised", i.id, i.run, i.authoritative, None) for i in own.values()]
    if again:
        await results.add(conn, again, now)


def _target_row(
    row: UsedRow, target: Target, settings: dict[str, Any], pack_sha256: str, now: float
) -> dict[str, Any]:
    return {
        "id": target.id,
        "rollout_id": row.rollout_id,
        "builder_version": row.builder_version,
        "settings": settings,
        "settings_hash": content_hash(settings),
        "content_hash": target.content_hash(),
        "pack_sha256": pack_sha256,
        "created_at": now,
    }


def _answers(target: Target) -> list[dict[str, Any]]:
    return [
        {"target_id": target.id, "ordinal": ordinal, "answer_id": component.answer_id}
        for ordinal, component in enumerate(target.components)
    ]


def _listed(
    used: Sequence[UsedRow],
    consumed: Mapping[str, Sequence[tuple[str, str]]],
    rebuilt: Mapping[str, str],
) -> tuple[RetiredTarget, ...]:
    by_target: dict[str, list[UsedRow]] = {}
    for row in used:
        by_target.setdefault(row.target_id, []).append(row)
    return tuple(
        RetiredTarget(
            target_id=target_id,
            rollout_id=rows[0].rollout_id,
            run=rows[0].run,
            answer_ids=tuple(row.answer_id for row in rows),
            consumed_by=tuple(
                step if run == rows[0].run else f"{run}/{step}"
                for run, step in consumed.get(target_id, ())
            ),
            rebuilt_as=rebuilt.get(target_id),
        )
        for target_id, rows in by_target.items()
    )
