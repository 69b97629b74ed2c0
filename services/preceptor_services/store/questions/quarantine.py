"""Queries about answers that may be wrong: their expert failed an inspection after giving them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from preceptor_services.store.prepared import insert_new
from preceptor_services.store.questions import answers, tickets
from preceptor_services.store.tables.provenance import Target, TargetAnswer
from preceptor_services.store.tables.questions import (
    AnswerRow,
    QuarantinedAnswer,
    ServiceInspection,
)


async def note_good(
    conn: AsyncConnection, service: str, now: float, canary: dict[str, Any] | None
) -> None:
    """Records that the service passed an inspection at this time, and its canary's answers."""
    row = {"service": service, "good_at": now, "canary": canary}
    await insert_new(conn, ServiceInspection, [row])
    await conn.execute(
        update(ServiceInspection).where(ServiceInspection.service == service).values(**row)
    )


async def canary(conn: AsyncConnection, service: str) -> dict[str, Any] | None:
    """The service's answers when its canary last passed."""
    query = select(ServiceInspection.canary).where(ServiceInspection.service == service)
    return (await conn.execute(query)).scalar()


async def forget_canary(conn: AsyncConnection, service: str) -> None:
    """Discards the canary's answers, because another service gets the name."""
    await conn.execute(
        update(ServiceInspection).where(ServiceInspection.service == service).values(canary=None)
    )


async def good_at(conn: AsyncConnection, service: str) -> float | None:
    """When the service last passed an inspection."""
    query = select(ServiceInspection.good_at).where(ServiceInspection.service == service)
    return (await conn.execute(query)).scalar()


async def quarantine(
    conn: AsyncConnection, service: str, since: float, now: float, problem: dict[str, Any]
) -> int:
    """Quarantines the answers since then; returns their number."""
    found = await conn.execute(
        select(AnswerRow.answer_key, AnswerRow.answer_id).where(
            AnswerRow.service == service, AnswerRow.state == "done", AnswerRow.done_at >= since
        )
    )
    rows = list(found)
    if not rows:
        return 0
    reason = str(problem.get("detail", ""))
    await conn.execute(
        insert(QuarantinedAnswer),
        [
            {
                "answer_id": row.answer_id,
                "quarantined_at": now,
                "service": service,
                "reason": reason,
            }
            for row in rows
        ],
    )
    keys = [row.answer_key for row in rows]
    for start in range(0, len(keys), 500):
        part = keys[start : start + 500]
        await answers.write_off(conn, part, problem)
        await tickets.write_off(conn, part, problem)
    return len(rows)


async def targets(
    conn: AsyncConnection, service: str, after: str, limit: int
) -> list[tuple[str, str]]:
    """Targets that were built from quarantined answers, with their rollouts, by id."""
    query = (
        select(Target.id, Target.rollout_id)
        .distinct()
        .join(TargetAnswer, TargetAnswer.target_id == Target.id)
        .join(QuarantinedAnswer, QuarantinedAnswer.answer_id == TargetAnswer.answer_id)
        .join(AnswerRow, AnswerRow.answer_id == TargetAnswer.answer_id)
        .where(QuarantinedAnswer.service == service, Target.id > after)
        # A question that was asked again since has another answer under the same id.
        .where(or_(AnswerRow.state != "done", Target.created_at < AnswerRow.done_at))
        .order_by(Target.id)
        .limit(limit)
    )
    return [(row.id, row.rollout_id) for row in await conn.execute(query)]
