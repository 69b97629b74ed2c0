"""Optimiser steps as rows; one that would train on a rollout twice is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from preceptor_clients.errors import Conflict, NotFound
from preceptor_clients.schemas import StepRecord
from preceptor_services.gateway.lineages import survives, surviving_ends
from preceptor_services.gateway.packs import Written
from preceptor_services.gateway.record_checks import refuse_unknown
from preceptor_services.store import runs
from preceptor_services.store.runs import LineageRow


def credit_arrays(record: StepRecord) -> dict[str, dict[str, Any]]:
    """What of a step lies in a blob."""
    return {
        c.rollout_id: {"costs": c.costs, "advantages": c.advantages, "logprobs": c.logprobs}
        for c in record.consumed
    }


async def check_step(conn: AsyncConnection, record: StepRecord) -> None:
    """What a step consumed must be there, and not consumed on its surviving lineage before."""
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


def step_row(record: StepRecord, digest: str, pack: Written, now: float) -> dict[str, Any]:
    """The step."""
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
    """What it consumed."""
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
