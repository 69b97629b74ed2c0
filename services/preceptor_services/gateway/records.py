"""Takes provenance in: runs, lineages, rollouts, targets, steps. Each is idempotent by its id.

A record that refers to what is not there is refused, because a target that cannot be traced is
worth nothing; so is a step that would train on a rollout twice on its surviving lineage.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy.ext.asyncio import AsyncConnection

from preceptor_clients.errors import Conflict, Invalid, NotFound
from preceptor_clients.fingerprint import content_hash
from preceptor_clients.schemas import (
    Accepted,
    Accounting,
    LineageRecord,
    Records,
    RolloutRecord,
    RunRecord,
    StepRecord,
    TargetRecord,
)
from preceptor_services.gateway.clock import Clock
from preceptor_services.gateway.lineages import newest, survives, surviving_ends
from preceptor_services.gateway.packs import Packs, Written
from preceptor_services.store import answers, feedback, runs, services
from preceptor_services.store.database import Database
from preceptor_services.store.runs import LineageRow


@dataclass(frozen=True, kw_only=True)
class RecordKeeper:
    """Writes the provenance of runs."""

    database: Database
    packs: Packs
    clock: Clock

    async def start_run(self, record: RunRecord) -> Accepted:
        """Writes a run down."""
        document = record.model_dump(mode="json")
        async with self.database.write() as conn:
            known = await runs.find_run(conn, record.run)
            if known is not None:
                _same(known, document, f"run {record.run}", "run")
                return Accepted(new=0)
            row = {"name": record.run, "document": document, "created_at": self.clock.now()}
            await runs.add_run(conn, row)
        return Accepted(new=1)

    async def start_lineage(self, record: LineageRecord) -> Accepted:
        """Writes one life of a run down."""
        async with self.database.write() as conn:
            if await runs.find_run(conn, record.run) is None:
                raise NotFound(f"no run {record.run}", field="run")
            lineages = await runs.lineages(conn, record.run)
            known = lineages.get(record.lineage)
            if known is not None:
                was = (known.parent, known.from_step)
                _same(was, (record.parent, record.from_step), record.lineage, "lineage")
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
                    "created_at": self.clock.now(),
                },
            )
        return Accepted(new=1)

    async def add(self, records: Records) -> Accepted:
        """Writes rollouts and targets, all or none."""
        _check_targets(records.targets)
        entries = {r.rollout_id: _rollout_arrays(r) for r in records.rollouts}
        entries |= {t.target_id: t.arrays for t in records.targets}
        if not entries:
            return Accepted(new=0)
        pack = await self.packs.write(entries)
        now = self.clock.now()
        async with self.database.write() as conn:
            rollouts = await _new_rollouts(conn, records.rollouts, pack, now)
            targets = await _new_targets(conn, records, pack, now)
            await services.add_blobs(conn, {pack.sha256: pack.size}, now)
            await runs.add_rollouts(conn, rollouts)
            await runs.add_targets(conn, targets, _target_answers(records.targets, targets))
        return Accepted(new=len(rollouts) + len(targets))

    async def add_step(self, record: StepRecord) -> Accepted:
        """Writes one optimiser step and what it consumed."""
        document = record.model_dump()
        digest = content_hash(document)
        pack = await self.packs.write(_credit_arrays(record))
        now = self.clock.now()
        async with self.database.write() as conn:
            known = await runs.step_hash(conn, record.run, record.lineage, record.step)
            if known is not None:
                _same(known, digest, f"step {record.lineage}/{record.step}", "step")
                return Accepted(new=0)
            await _check_step(conn, record)
            await services.add_blobs(conn, {pack.sha256: pack.size}, now)
            row = _step_row(record, digest, pack, now)
            await runs.add_step(conn, row, _consumed_rows(record))
        return Accepted(new=1)

    async def accounting(self, run: str) -> Accounting:
        """What the surviving lineage of a run has used."""
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


def _same(known: object, sent: object, what: str, field: str) -> None:
    if known != sent:
        raise Conflict(f"{what} is recorded with another content", field=field)


def _check_targets(targets: Sequence[TargetRecord]) -> None:
    for place, target in enumerate(targets):
        if content_hash(target.arrays) != target.content_hash:
            raise Invalid(
                "is not the hash of the arrays (they keep their types in a frame, not in JSON)",
                field=f"targets[{place}].content_hash",
            )
        components = cast("list[dict[str, Any]]", target.arrays.get("components", []))
        if tuple(c.get("answer_id") for c in components) != target.answer_ids:
            raise Invalid("are not those of the components", field=f"targets[{place}].answer_ids")


def _rollout_arrays(record: RolloutRecord) -> dict[str, Any]:
    return {
        "prompt": record.prompt.model_dump(exclude_none=True),
        "response_ids": record.response_ids,
        "response_text": record.response_text,
        "behaviour_logprobs": record.behaviour_logprobs,
        "owned": record.owned,
    }


def _credit_arrays(record: StepRecord) -> dict[str, dict[str, Any]]:
    return {
        c.rollout_id: {"costs": c.costs, "advantages": c.advantages, "logprobs": c.logprobs}
        for c in record.consumed
    }


async def _new_rollouts(
    conn: AsyncConnection, records: Sequence[RolloutRecord], pack: Written, now: float
) -> list[dict[str, Any]]:
    known = await runs.rollout_hashes(conn, [r.rollout_id for r in records])
    lineages = {run: await runs.lineages(conn, run) for run in {r.run for r in records}}
    rows: list[dict[str, Any]] = []
    for place, record in enumerate(records):
        if record.lineage not in lineages[record.run]:
            raise NotFound(
                f"run {record.run} has no lineage {record.lineage}",
                field=f"rollouts[{place}].lineage",
            )
        if not len(record.response_ids) == len(record.behaviour_logprobs) == len(record.owned):
            raise Invalid(
                "has another length than response_ids",
                field=f"rollouts[{place}].behaviour_logprobs",
            )
        digest = content_hash(record.model_dump())
        if record.rollout_id in known:
            field = f"rollouts[{place}].rollout_id"
            _same(known[record.rollout_id], digest, record.rollout_id, field)
            continue
        known[record.rollout_id] = digest
        rows.append(_rollout_row(record, digest, pack, now))
    return rows


def _rollout_row(record: RolloutRecord, digest: str, pack: Written, now: float) -> dict[str, Any]:
    return {
        "id": record.rollout_id,
        "run": record.run,
        "lineage": record.lineage,
        "step": record.step,
        "problem_id": record.problem_id,
        "group_id": record.group_id,
        "weights": record.weights,
        "finish_reason": record.finish_reason,
        "sampling": record.sampling,
        "num_tokens": len(record.response_ids),
        "content_hash": digest,
        "pack_sha256": pack.sha256,
        "created_at": now,
    }


async def _new_targets(
    conn: AsyncConnection, records: Records, pack: Written, now: float
) -> list[dict[str, Any]]:
    targets = records.targets
    known = await runs.target_hashes(conn, [t.target_id for t in targets])
    rollouts = set(await runs.rollout_hashes(conn, {t.rollout_id for t in targets}))
    rollouts |= {r.rollout_id for r in records.rollouts}
    answered = await answers.known_ids(conn, {a for t in targets for a in t.answer_ids})
    items = await feedback.content_hashes(conn, {f for t in targets for f in t.feedback_ids})
    rows: list[dict[str, Any]] = []
    for place, target in enumerate(targets):
        _refuse_unknown([target.rollout_id], rollouts, f"targets[{place}].rollout_id")
        _refuse_unknown(target.answer_ids, answered, f"targets[{place}].answer_ids")
        _refuse_unknown(target.feedback_ids, items, f"targets[{place}].feedback_ids")
        if target.target_id in known:
            field = f"targets[{place}].target_id"
            _same(known[target.target_id], target.content_hash, target.target_id, field)
            continue
        known[target.target_id] = target.content_hash
        rows.append(
            {
                "id": target.target_id,
                "rollout_id": target.rollout_id,
                "builder_version": target.builder_version,
                "settings": target.settings,
                "settings_hash": content_hash(target.settings),
                "content_hash": target.content_hash,
                "pack_sha256": pack.sha256,
                "created_at": now,
            }
        )
    return rows


def _refuse_unknown(ids: Sequence[str], known: set[str] | Mapping[str, str], field: str) -> None:
    missing = [item for item in ids if item not in known]
    if missing:
        raise Invalid(f"{missing[0]!r} is unknown", field=field)


def _target_answers(
    records: Sequence[TargetRecord], rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    new = {row["id"] for row in rows}
    return [
        {"target_id": target.target_id, "ordinal": ordinal, "answer_id": answer}
        for target in {t.target_id: t for t in records}.values()
        if target.target_id in new
        for ordinal, answer in enumerate(target.answer_ids)
    ]


async def _check_step(conn: AsyncConnection, record: StepRecord) -> None:
    lineages = await runs.lineages(conn, record.run)
    if record.lineage not in lineages:
        raise NotFound(f"run {record.run} has no lineage {record.lineage}", field="lineage")
    ids = [c.rollout_id for c in record.consumed]
    rollouts = await runs.rollout_hashes(conn, ids)
    targets = await runs.target_hashes(
        conn, {c.target_id for c in record.consumed if c.target_id is not None}
    )
    for place, credit in enumerate(record.consumed):
        _refuse_unknown([credit.rollout_id], rollouts, f"consumed[{place}].rollout_id")
        if credit.target_id is not None:
            _refuse_unknown([credit.target_id], targets, f"consumed[{place}].target_id")
    await _refuse_second_use(conn, record, lineages)


async def _refuse_second_use(
    conn: AsyncConnection, record: StepRecord, lineages: Mapping[str, LineageRow]
) -> None:
    ends = surviving_ends(lineages, record.lineage)
    used = {
        use.rollout_id: f"step {use.lineage}/{use.step}"
        for use in await runs.uses(conn, record.run, [c.rollout_id for c in record.consumed])
        if survives(ends, use.lineage, use.step)
    }
    for place, credit in enumerate(record.consumed):
        if credit.rollout_id in used:
            raise Conflict(
                f"{credit.rollout_id} was consumed by {used[credit.rollout_id]}",
                field=f"consumed[{place}].rollout_id",
            )
        used[credit.rollout_id] = "this step already"


def _step_row(record: StepRecord, digest: str, pack: Written, now: float) -> dict[str, Any]:
    return {
        "run": record.run,
        "lineage": record.lineage,
        "step": record.step,
        "loss": record.loss,
        "metrics": record.metrics,
        "weights_before": record.weights_before,
        "weights_after": record.weights_after,
        "content_hash": digest,
        "pack_sha256": pack.sha256,
        "created_at": now,
    }


def _consumed_rows(record: StepRecord) -> list[dict[str, Any]]:
    return [
        {
            "run": record.run,
            "lineage": record.lineage,
            "step": record.step,
            "rollout_id": credit.rollout_id,
            "target_id": credit.target_id,
        }
        for credit in record.consumed
    ]
