"""Records provenance: runs, lineages, rollouts, targets, steps. Each is idempotent by its id.

A record with a reference to an unknown record is refused, because its target could not be traced.
A step that would train on a rollout twice on its surviving lineage is refused too.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from preceptor_clients.contract import wire
from preceptor_clients.contract.errors import Invalid, MalformedFrame, NotFound
from preceptor_clients.contract.fingerprint import content_hash
from preceptor_clients.contract.schemas import (
    Accepted,
    Accounting,
    Credits,
    LineageRecord,
    Records,
    RunRecord,
    StepRecord,
    Trace,
)
from preceptor_services.kit.array_blobs import ArrayBlobs
from preceptor_services.kit.blobs import BlobDamaged, BlobStore
from preceptor_services.kit.clock import Clock
from preceptor_services.kit.metrics import Metrics
from preceptor_services.provenance.lineages import newest, survives, surviving_ends
from preceptor_services.provenance.rows import (
    check_step,
    check_targets,
    consumed_rows,
    credit_arrays,
    new_items,
    new_rollouts,
    new_targets,
    rollout_arrays,
    same,
    step_row,
    target_answers,
)
from preceptor_services.provenance.trace import trace, trace_rollout
from preceptor_services.store import services
from preceptor_services.store.database import Database
from preceptor_services.store.provenance import feedback, runs


@dataclass(frozen=True, kw_only=True)
class RecordKeeper:
    """Records the provenance of runs and reads it."""

    database: Database
    array_blobs: ArrayBlobs
    blobs: BlobStore
    clock: Clock
    metrics: Metrics

    async def start_run(self, record: RunRecord) -> Accepted:
        """Records a run; repeating the same record changes nothing."""
        document = record.model_dump(mode="json")
        async with self.database.write() as conn:
            known = await runs.find_run(conn, record.run)
            if known is not None:
                # Versions may differ: a run may resume after an upgrade; the lineage records them.
                same(_lasting(known), _lasting(document), f"run {record.run}", "run")
                return Accepted(new=0)
            row = {"name": record.run, "document": document, "created_at": self.clock.now()}
            await runs.add_run(conn, row)
        return Accepted(new=1)

    async def start_lineage(self, record: LineageRecord) -> Accepted:
        """Records one lineage of a run; repeating the same record changes nothing."""
        async with self.database.write() as conn:
            if await runs.find_run(conn, record.run) is None:
                raise NotFound(f"no run {record.run}", field="run")
            lineages = await runs.lineages(conn, record.run)
            known = lineages.get(record.lineage)
            if known is not None:
                was = (known.parent, known.from_step, known.document.get("settings", {}))
                sent = (record.parent, record.from_step, record.settings)
                same(was, sent, record.lineage, "lineage")
                return Accepted(new=0)
            if record.parent is not None and record.parent not in lineages:
                raise NotFound(f"run {record.run} has no lineage {record.parent}", field="parent")
            await runs.add_lineage(
                conn,
                {
                    "run": record.run,
                    "name": record.lineage,
                    "serial": len(lineages),
                    "parent": record.parent,
                    "from_step": record.from_step,
                    "document": {"settings": record.settings, "versions": record.versions},
                    "created_at": self.clock.now(),
                },
            )
        return Accepted(new=1)

    async def add(self, records: Records) -> Accepted:
        """Records rollouts, targets and feedback items, all or none."""
        check_targets(records.targets)
        entries = {r.rollout_id: rollout_arrays(r) for r in records.rollouts}
        entries |= {t.target_id: t.arrays for t in records.targets}
        if not (entries or records.feedback):
            return Accepted(new=0)
        pack = await self.array_blobs.write(entries)
        now = self.clock.now()
        async with self.database.write() as conn:
            rollouts = await new_rollouts(conn, records.rollouts, pack, now)
            targets = await new_targets(conn, records, pack, now)
            items = await new_items(conn, records, now)
            await services.add_blobs(conn, {pack.sha256: pack.size}, now)
            await runs.add_rollouts(conn, rollouts)
            await runs.add_targets(conn, targets, target_answers(records.targets, targets))
            await feedback.add_items(conn, items)
        return Accepted(new=len(rollouts) + len(targets) + len(items))

    async def add_step(self, record: StepRecord) -> Accepted:
        """Records one optimiser step and the rollouts that it consumed.

        Raises:
            Invalid: a part of its credits is missing or not valid.
        """
        record = await self._whole(record)
        digest = content_hash(record.model_dump(exclude={"consumed_in"}))
        pack = await self.array_blobs.write(credit_arrays(record))
        now = self.clock.now()
        async with self.database.write() as conn:
            known = await runs.step_hash(conn, record.run, record.lineage, record.step)
            if known is not None:
                same(known, digest, f"step {record.lineage}/{record.step}", "step")
                return Accepted(new=0)
            await check_step(conn, record)
            await services.add_blobs(conn, {pack.sha256: pack.size}, now)
            row = step_row(record, digest, pack, now)
            await runs.add_step(conn, row, consumed_rows(record))
        self.metrics.count_step(record)
        return Accepted(new=1)

    async def _whole(self, record: StepRecord) -> StepRecord:
        """The step completed with the credits that were sent before it."""
        consumed = list(record.consumed)
        for place, sha256 in enumerate(record.consumed_in):
            try:
                body = await self.blobs.get(sha256)
                part = await asyncio.to_thread(wire.parse, Credits, body, wire.FRAME)
            except (NotFound, MalformedFrame, Invalid, BlobDamaged) as error:
                raise Invalid(str(error), field=f"consumed_in[{place}]") from error
            consumed += part.consumed
        return record.model_copy(update={"consumed": tuple(consumed), "consumed_in": ()})

    async def accounting(self, run: str) -> Accounting:
        """Totals of the surviving lineage of a run."""
        async with self.database.read() as conn:
            if await runs.find_run(conn, run) is None:
                raise NotFound(f"no run {run}", field="run")
            lineages = await runs.lineages(conn, run)
            steps = await runs.steps(conn, run)
            places = await runs.rollout_places(conn, run)
            uses = await runs.uses(conn, run)
            num_targets = await runs.count_targets(conn, run)
        tip = newest(lineages)
        ends = {} if tip is None else surviving_ends(lineages, tip)
        used = Counter(u.rollout_id for u in uses if survives(ends, u.lineage, u.step))
        return Accounting(
            run=run,
            lineage=tip,
            lineages=len(lineages),
            steps=sum(survives(ends, lineage, step) for lineage, step in steps),
            superseded_steps=sum(not survives(ends, lineage, step) for lineage, step in steps),
            rollouts=len(places),
            targets=num_targets,
            consumed=len(used),
            consumed_twice=sum(count > 1 for count in used.values()),
        )

    async def trace(self, target_id: str, position: int) -> Trace:
        """The sources of the target of one token."""
        return await trace(self.database, self.array_blobs, target_id, position)

    async def trace_rollout(self, rollout_id: str, position: int) -> Trace:
        """One token of a rollout, with or without a target."""
        return await trace_rollout(self.database, self.array_blobs, rollout_id, position)


def _lasting(record: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a run's record that all of its lineages share."""
    return {name: record[name] for name in ("run", "config", "seed")}
