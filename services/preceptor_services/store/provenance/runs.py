"""Queries about runs, lineages, rollouts, targets and steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from preceptor_services.store.sql import in_parts
from preceptor_services.store.tables.provenance import (
    Consumed,
    Lineage,
    Rollout,
    Run,
    Step,
    Target,
    TargetAnswer,
)


class LineageRow(NamedTuple):
    """One lineage of a run."""

    name: str
    serial: int
    parent: str | None
    from_step: int
    document: dict[str, Any]
    created_at: float


class ConsumedRow(NamedTuple):
    """One use of a rollout."""

    lineage: str
    step: int
    rollout_id: str
    target_id: str | None


async def find_run(conn: AsyncConnection, run: str) -> dict[str, Any] | None:
    return (await conn.execute(select(Run.document).where(Run.name == run))).scalar_one_or_none()


async def add_run(conn: AsyncConnection, row: dict[str, Any]) -> None:
    await conn.execute(insert(Run), [row])


async def lineages(conn: AsyncConnection, run: str) -> dict[str, LineageRow]:
    """The lineages of a run, in the order in which they began."""
    query = (
        select(
            Lineage.name,
            Lineage.serial,
            Lineage.parent,
            Lineage.from_step,
            Lineage.document,
            Lineage.created_at,
        )
        .where(Lineage.run == run)
        .order_by(Lineage.serial)
    )
    return {row.name: LineageRow(*row) for row in await conn.execute(query)}


async def add_lineage(conn: AsyncConnection, row: dict[str, Any]) -> None:
    await conn.execute(insert(Lineage), [row])


async def rollout_hashes(conn: AsyncConnection, ids: Iterable[str]) -> dict[str, str]:
    """Content hash of each known rollout among `ids`."""
    found: dict[str, str] = {}
    for some in in_parts(ids):
        query = select(Rollout.id, Rollout.content_hash).where(Rollout.id.in_(some))
        found |= {row[0]: row[1] for row in await conn.execute(query)}
    return found


async def target_hashes(conn: AsyncConnection, ids: Iterable[str]) -> dict[str, str]:
    """Content hash of each known target among `ids`."""
    found: dict[str, str] = {}
    for some in in_parts(ids):
        query = select(Target.id, Target.content_hash).where(Target.id.in_(some))
        found |= {row[0]: row[1] for row in await conn.execute(query)}
    return found


async def add_rollouts(conn: AsyncConnection, rows: Sequence[dict[str, Any]]) -> None:
    if rows:
        await conn.execute(insert(Rollout), list(rows))


async def add_targets(
    conn: AsyncConnection, rows: Sequence[dict[str, Any]], answers: Sequence[dict[str, Any]]
) -> None:
    """New targets with the answers of their components."""
    if rows:
        await conn.execute(insert(Target), list(rows))
    if answers:
        await conn.execute(insert(TargetAnswer), list(answers))


async def step_hash(conn: AsyncConnection, run: str, lineage: str, step: int) -> str | None:
    """Content hash of a step, if it was recorded."""
    query = select(Step.content_hash).where(
        Step.run == run, Step.lineage == lineage, Step.step == step
    )
    return (await conn.execute(query)).scalar_one_or_none()


async def add_step(
    conn: AsyncConnection, row: dict[str, Any], consumed: Sequence[dict[str, Any]]
) -> None:
    """Adds a step and the rollouts that it consumed."""
    await conn.execute(insert(Step), [row])
    if consumed:
        await conn.execute(insert(Consumed), list(consumed))


async def uses(
    conn: AsyncConnection, run: str, rollout_ids: Iterable[str] | None = None
) -> list[ConsumedRow]:
    """Every use of these rollouts, or of all, on any lineage of the run."""
    query = select(Consumed.lineage, Consumed.step, Consumed.rollout_id, Consumed.target_id).where(
        Consumed.run == run
    )
    query = query.order_by(Consumed.step, Consumed.rollout_id)
    if rollout_ids is None:
        return [ConsumedRow(*row) for row in await conn.execute(query)]
    found: list[ConsumedRow] = []
    for some in in_parts(rollout_ids):
        rows = await conn.execute(query.where(Consumed.rollout_id.in_(some)))
        found += [ConsumedRow(*row) for row in rows]
    return sorted(found, key=lambda use: (use.step, use.rollout_id))


async def steps(conn: AsyncConnection, run: str) -> list[tuple[str, int]]:
    """Every recorded step as (lineage, step)."""
    query = select(Step.lineage, Step.step).where(Step.run == run).order_by(Step.step)
    return [(row[0], row[1]) for row in await conn.execute(query)]


async def rollout_places(conn: AsyncConnection, run: str) -> list[tuple[str, str, int]]:
    """(id, lineage, step) of every rollout of the run."""
    query = select(Rollout.id, Rollout.lineage, Rollout.step).where(Rollout.run == run)
    return [(row[0], row[1], row[2]) for row in await conn.execute(query)]


async def count_targets(conn: AsyncConnection, run: str) -> int:
    """Targets of a run."""
    query = (
        select(func.count())
        .select_from(Target)
        .join(Rollout, Rollout.id == Target.rollout_id)
        .where(Rollout.run == run)
    )
    return (await conn.execute(query)).scalar_one()
