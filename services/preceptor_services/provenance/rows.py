"""Rollouts, targets and optimiser steps as rows, with checks of their references.

Recorded rows never change. A step that would train on a rollout twice is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from preceptor_clients.contract.errors import Conflict, Invalid, NotFound
from preceptor_clients.contract.fingerprint import content_hash
from preceptor_clients.contract.schemas import Records, RolloutRecord, StepRecord, TargetRecord
from preceptor_services.kit.array_blobs import Written
from preceptor_services.provenance.lineages import survives, surviving_ends
from preceptor_services.questions.accept import item_row
from preceptor_services.store.database import Connection
from preceptor_services.store.provenance import feedback, runs
from preceptor_services.store.provenance.runs import LineageRow
from preceptor_services.store.questions import answers


def check_targets(targets: Sequence[TargetRecord]) -> None:
    """Checks that hashes and answer ids of targets match their arrays."""
    for place, target in enumerate(targets):
        if content_hash(target.arrays) != target.content_hash:
            raise Invalid(
                "is not the hash of the arrays (they keep their types in a frame, not in JSON)",
                field=f"targets[{place}].content_hash",
            )
        components = cast("list[dict[str, Any]]", target.arrays.get("components", []))
        if tuple(c.get("answer_id") for c in components) != target.answer_ids:
            raise Invalid("are not those of the components", field=f"targets[{place}].answer_ids")


def rollout_arrays(record: RolloutRecord) -> dict[str, Any]:
    """The part of a rollout that is stored in a blob."""
    return {
        "prompt": record.prompt.model_dump(exclude_none=True),
        "response_ids": record.response_ids,
        "response_text": record.response_text,
        "behaviour_logprobs": record.behaviour_logprobs,
        "owned": record.owned,
    }


async def new_rollouts(
    conn: Connection, records: Sequence[RolloutRecord], pack: Written, now: float
) -> list[dict[str, Any]]:
    """Rows of the rollouts that are new."""
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
                "its length differs from that of response_ids",
                field=f"rollouts[{place}].behaviour_logprobs",
            )
        digest = content_hash(record.model_dump())
        if record.rollout_id in known:
            field = f"rollouts[{place}].rollout_id"
            same(known[record.rollout_id], digest, record.rollout_id, field)
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


async def new_targets(
    conn: Connection, records: Records, pack: Written, now: float
) -> list[dict[str, Any]]:
    """Rows of the targets that are new."""
    targets = records.targets
    known = await runs.target_hashes(conn, [t.target_id for t in targets])
    rollouts = set(await runs.rollout_hashes(conn, {t.rollout_id for t in targets}))
    rollouts |= {r.rollout_id for r in records.rollouts}
    answered = await answers.known_ids(conn, {a for t in targets for a in t.answer_ids})
    items = await feedback.content_hashes(conn, {f for t in targets for f in t.feedback_ids})
    rows: list[dict[str, Any]] = []
    for place, target in enumerate(targets):
        refuse_unknown([target.rollout_id], rollouts, f"targets[{place}].rollout_id")
        refuse_unknown(target.answer_ids, answered, f"targets[{place}].answer_ids")
        refuse_unknown(target.feedback_ids, items, f"targets[{place}].feedback_ids")
        if target.target_id in known:
            field = f"targets[{place}].target_id"
            same(known[target.target_id], target.content_hash, target.target_id, field)
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


async def new_items(conn: Connection, records: Records, now: float) -> list[dict[str, Any]]:
    """Rows of the feedback items that are new."""
    sent = records.feedback
    if not sent:
        return []
    rollouts = set(await runs.rollout_hashes(conn, {f.rollout_id for f in sent}))
    rollouts |= {r.rollout_id for r in records.rollouts}
    known = await feedback.content_hashes(conn, [f.item.id for f in sent])
    rows: list[dict[str, Any]] = []
    for place, record in enumerate(sent):
        refuse_unknown([record.rollout_id], rollouts, f"feedback[{place}].rollout_id")
        row = item_row(record.item, now) | {"rollout_id": record.rollout_id}
        if row["id"] in known:
            field = f"feedback[{place}].item.id"
            same(known[row["id"]], row["content_hash"], row["id"], field)
            continue
        known[row["id"]] = row["content_hash"]
        rows.append(row)
    return rows


def target_answers(
    records: Sequence[TargetRecord], rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Rows that link new targets to their answers."""
    new = {row["id"] for row in rows}
    return [
        {"target_id": target.target_id, "ordinal": ordinal, "answer_id": answer}
        for target in {t.target_id: t for t in records}.values()
        if target.target_id in new
        for ordinal, answer in enumerate(target.answer_ids)
    ]


def same(known: object, sent: object, what: str, field: str) -> None:
    """Refuses a record whose id is recorded with different content."""
    if known != sent:
        raise Conflict(f"{what} is recorded with other content", field=field)


def refuse_unknown(ids: Sequence[str], known: set[str] | Mapping[str, str], field: str) -> None:
    """Refuses `ids` that are not all in `known`."""
    missing = [item for item in ids if item not in known]
    if missing:
        raise Invalid(f"{missing[0]!r} is unknown", field=field)


def credit_arrays(record: StepRecord) -> dict[str, dict[str, Any]]:
    """The part of a step that is stored in a blob."""
    return {
        c.rollout_id: {"costs": c.costs, "advantages": c.advantages, "logprobs": c.logprobs}
        for c in record.consumed
    }


async def check_step(conn: Connection, record: StepRecord) -> None:
    """Refuses unknown rollouts and targets, and rollouts that its lineage has consumed before."""
    lineages = await runs.lineages(conn, record.run)
    if record.lineage not in lineages:
        raise NotFound(f"run {record.run} has no lineage {record.lineage}", field="lineage")
    ids = [c.rollout_id for c in record.consumed]
    rollouts = await runs.rollout_hashes(conn, ids)
    targets = await runs.target_hashes(
        conn, {c.target_id for c in record.consumed if c.target_id is not None}
    )
    for place, credit in enumerate(record.consumed):
        refuse_unknown([credit.rollout_id], rollouts, f"consumed[{place}].rollout_id")
        if credit.target_id is not None:
            refuse_unknown([credit.target_id], targets, f"consumed[{place}].target_id")
    await _refuse_second_use(conn, record, lineages)


async def _refuse_second_use(
    conn: Connection, record: StepRecord, lineages: Mapping[str, LineageRow]
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


def step_row(record: StepRecord, digest: str, pack: Written, now: float) -> dict[str, Any]:
    """Row of the step."""
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


def consumed_rows(record: StepRecord) -> list[dict[str, Any]]:
    """Rows of the rollouts that the step consumed."""
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
