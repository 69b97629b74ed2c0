"""Queries about jobs: bundles of questions that dispatchers claim under a rising fence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import bindparam, exists, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from preceptor_services.store.prepared import Prepared
from preceptor_services.store.tables.questions import AnswerRow, Job, JobAttempt

UNFINISHED: Final = ("queued", "running")
GIVEN_BACK: Final = "given back"
"""The outcome of a delivery that its dispatcher reported as failed."""


class JobRow(NamedTuple):
    """One job."""

    id: str
    service: str
    kind: str
    state: str
    priority: int
    num_tokens: int
    exclusive: bool
    fence: int
    attempts: int
    put_at: float | None
    reason: dict[str, Any] | None
    request_id: str | None = None


_COLUMNS: Final = (
    Job.id,
    Job.service,
    Job.kind,
    Job.state,
    Job.priority,
    Job.num_tokens,
    Job.exclusive,
    Job.fence,
    Job.attempts,
    Job.put_at,
    Job.reason,
    Job.request_id,
)


_ADD: Final = Prepared(insert(Job))
_FIND: Final = Prepared(select(*_COLUMNS).where(Job.id.in_(bindparam("ids"))))
_COUNT_UNFINISHED: Final = Prepared(
    select(Job.service, func.count()).where(Job.state.in_(UNFINISHED)).group_by(Job.service)
)
_OLDEST: Final = (
    select(Job.service, func.min(Job.created_at))
    .where(Job.state.in_(UNFINISHED))
    .group_by(Job.service)
)
_CLAIM: Final = Prepared(
    update(Job)
    .where(Job.id.in_(bindparam("ids")), Job.state.in_(UNFINISHED))
    .values(
        state="running",
        fence=Job.fence + 1,
        attempts=Job.attempts + 1,
        claimed_at=bindparam("b_now"),
    )
    .returning(*_COLUMNS)
)
_ADD_ATTEMPTS: Final = Prepared(insert(JobAttempt))
_END: Final = ("ended_at", "outcome", "latency_ms", "reason")
"""Columns of an attempt that its end fills."""
_END_ATTEMPTS: Final = Prepared(
    update(JobAttempt)
    .where(JobAttempt.job_id == bindparam("b_job_id"), JobAttempt.fence == bindparam("b_fence"))
    .values(**{name: bindparam(f"b_{name}") for name in _END})
)
_COUNT_FAILURES: Final = Prepared(
    select(JobAttempt.job_id, func.count())
    .join(Job, Job.id == JobAttempt.job_id)
    .where(
        Job.id.in_(bindparam("ids")),
        JobAttempt.outcome == GIVEN_BACK,
        # Those since the job was replayed: each delivery increases both numbers, a replay sets
        # `attempts` to 0.
        JobAttempt.fence > Job.fence - Job.attempts,
    )
    .group_by(JobAttempt.job_id)
)
_SET_STATES: Final = Prepared(
    update(Job)
    .where(Job.id == bindparam("b_id"))
    .values(state=bindparam("b_state"), reason=bindparam("b_reason"), put_at=None)
)


async def add(conn: AsyncConnection, rows: Sequence[dict[str, Any]]) -> None:
    if rows:
        await _ADD.many(conn, rows)


async def find(conn: AsyncConnection, job_ids: Sequence[str]) -> dict[str, JobRow]:
    """Those of the jobs that exist."""
    rows = await _FIND.rows(conn, {"ids": list(job_ids)})
    return {row[0]: JobRow(*row) for row in rows}


async def count_unfinished(conn: AsyncConnection) -> dict[str, int]:
    """Unfinished jobs by service."""
    return {row[0]: row[1] for row in await _COUNT_UNFINISHED.rows(conn, {})}


async def oldest(conn: AsyncConnection) -> dict[str, float]:
    """When the oldest unfinished job of each service was created."""
    return {row[0]: row[1] for row in await conn.execute(_OLDEST)}


async def count_standing(conn: AsyncConnection, put_before: float) -> dict[str, int]:
    """Unfinished jobs by service that were put on the stream before `put_before`."""
    query = (
        select(Job.service, func.count())
        .where(Job.state.in_(UNFINISHED), Job.put_at < put_before)
        .group_by(Job.service)
    )
    return {row[0]: row[1] for row in await conn.execute(query)}


async def claim(conn: AsyncConnection, job_ids: Sequence[str], now: float) -> list[JobRow]:
    """Raises the fence of each unfinished job; claims with an older fence become invalid."""
    changed = await _CLAIM.rows(conn, {"ids": list(job_ids), "b_now": now})
    return [JobRow(*row) for row in changed]


async def add_attempts(conn: AsyncConnection, rows: Sequence[dict[str, Any]]) -> None:
    """Records granted claims."""
    if rows:
        await _ADD_ATTEMPTS.many(conn, rows)


async def end_attempts(conn: AsyncConnection, rows: Sequence[dict[str, Any]]) -> None:
    """Records the end of claims: each row has `job_id`, `fence` and all columns of an end."""
    if rows:
        named = [{f"b_{name}": value for name, value in row.items()} for row in rows]
        await _END_ATTEMPTS.many(conn, named)


async def count_failures(conn: AsyncConnection, job_ids: Sequence[str]) -> dict[str, int]:
    """Deliveries that were reported as failed, of those of the jobs that have any."""
    return {row[0]: row[1] for row in await _COUNT_FAILURES.rows(conn, {"ids": list(job_ids)})}


async def set_states(
    conn: AsyncConnection, ends: Iterable[tuple[str, str, dict[str, Any] | None]]
) -> None:
    """Moves each job to its state, with the reason of its last failure."""
    rows = [{"b_id": i, "b_state": state, "b_reason": reason} for i, state, reason in ends]
    if rows:
        await _SET_STATES.many(conn, rows)


async def drop_unwanted(conn: AsyncConnection, job_ids: Sequence[str]) -> list[str]:
    """Ends those of the jobs that have no questions left; returns their ids."""
    if not job_ids:
        return []
    has_work = exists().where(AnswerRow.job_id == Job.id, AnswerRow.state == "pending")
    changed = await conn.execute(
        update(Job)
        .where(Job.id.in_(job_ids), Job.state.in_(UNFINISHED), ~has_work)
        .values(state="dropped", fence=Job.fence + 1)
        .returning(Job.id)
    )
    return list(changed.scalars())


async def mark_put(conn: AsyncConnection, job_ids: Sequence[str], now: float | None) -> None:
    """Records that these jobs were put on the stream at `now`; None: they are not on it."""
    if not job_ids:
        return
    await conn.execute(update(Job).where(Job.id.in_(job_ids)).values(put_at=now))


async def never_put(conn: AsyncConnection) -> list[JobRow]:
    """Queued jobs that never reached the stream, oldest first."""
    query = select(*_COLUMNS).where(Job.state == "queued", Job.put_at.is_(None))
    return [JobRow(*row) for row in await conn.execute(query.order_by(Job.created_at))]


async def perhaps_lost(
    conn: AsyncConnection, service: str, put_before: float, claimed_before: float
) -> list[JobRow]:
    """Unfinished jobs of a service whose entry the broker may have lost, oldest first."""
    query = select(*_COLUMNS).where(
        Job.service == service,
        or_(
            (Job.state == "queued") & (Job.put_at < put_before),
            (Job.state == "running") & (Job.claimed_at < claimed_before),
        ),
    )
    return [JobRow(*row) for row in await conn.execute(query.order_by(Job.created_at))]


class DeadRow(NamedTuple):
    """One job that was given up."""

    id: str
    service: str
    kind: str
    attempts: int
    created_at: float
    reason: dict[str, Any] | None
    num_questions: int


async def dead(conn: AsyncConnection, after: str, limit: int) -> list[DeadRow]:
    """Jobs that were given up and have failed questions, by id."""
    query = (
        select(Job.id, Job.service, Job.kind, Job.attempts, Job.created_at, func.count())
        .join(AnswerRow, AnswerRow.job_id == Job.id)
        .where(Job.state == "dead", AnswerRow.state == "failed", Job.id > after)
        .group_by(Job.id, Job.service, Job.kind, Job.attempts, Job.created_at)
        .order_by(Job.id)
        .limit(limit)
    )
    rows = list(await conn.execute(query))
    # A JSON column cannot be grouped by in PostgreSQL.
    reasons = {job.id: job.reason for job in (await find(conn, [row[0] for row in rows])).values()}
    return [DeadRow(*row[:5], reasons[row[0]], row[5]) for row in rows]


async def revive(conn: AsyncConnection, job_id: str) -> list[str]:
    """Queues a dead job and its failed questions again; returns the questions' answer keys."""
    await conn.execute(
        update(Job)
        .where(Job.id == job_id)
        .values(state="queued", attempts=0, put_at=None, claimed_at=None, reason=None)
    )
    changed = await conn.execute(
        update(AnswerRow)
        .where(AnswerRow.job_id == job_id, AnswerRow.state == "failed")
        .values(state="pending", problem=None)
        .returning(AnswerRow.answer_key)
    )
    return list(changed.scalars())
