"""Queries behind a trace: a target or a rollout, its answers and its uses."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncConnection

from preceptor_services.store.tables.provenance import Consumed, Rollout, Step, Target, TargetAnswer
from preceptor_services.store.tables.questions import AnswerRow


class TargetRow(NamedTuple):
    """A target and the rollout that it belongs to."""

    rollout_id: str
    target_pack: str
    rollout_pack: str
    content_hash: str
    run: str
    lineage: str
    step: int
    problem_id: str
    weights: str
    num_tokens: int


class RolloutRow(NamedTuple):
    """A rollout, and its newest target."""

    rollout_id: str
    rollout_pack: str
    run: str
    lineage: str
    step: int
    problem_id: str
    group_id: str
    weights: str
    num_tokens: int
    target_id: str | None


class SourceRow(NamedTuple):
    """The answer behind one component."""

    answer_id: str
    expert: str
    version: str
    weights: str | None
    template_version: str | None
    context_hash: str | None
    answer_kind: str


class UseRow(NamedTuple):
    """A step that consumed a target, or a rollout."""

    lineage: str
    step: int
    pack_sha256: str


async def find_target(conn: AsyncConnection, target_id: str) -> TargetRow | None:
    """One target with its rollout."""
    query = (
        select(
            Target.rollout_id,
            Target.pack_sha256,
            Rollout.pack_sha256,
            Target.content_hash,
            Rollout.run,
            Rollout.lineage,
            Rollout.step,
            Rollout.problem_id,
            Rollout.weights,
            Rollout.num_tokens,
        )
        .join(Rollout, Rollout.id == Target.rollout_id)
        .where(Target.id == target_id)
    )
    row = (await conn.execute(query)).first()
    return None if row is None else TargetRow(*row)


async def find_rollout(conn: AsyncConnection, rollout_id: str) -> RolloutRow | None:
    """One rollout with its newest target, if it has any."""
    query = (
        select(
            Rollout.id,
            Rollout.pack_sha256,
            Rollout.run,
            Rollout.lineage,
            Rollout.step,
            Rollout.problem_id,
            Rollout.group_id,
            Rollout.weights,
            Rollout.num_tokens,
            Target.id,
        )
        .outerjoin(Target, Target.rollout_id == Rollout.id)
        .where(Rollout.id == rollout_id)
        .order_by(Target.created_at.desc())
    )
    row = (await conn.execute(query.limit(1))).first()
    return None if row is None else RolloutRow(*row)


async def sources(conn: AsyncConnection, target_id: str) -> list[SourceRow]:
    """Answers of a target's components, in order."""
    query = (
        select(
            AnswerRow.answer_id,
            AnswerRow.expert,
            AnswerRow.version,
            AnswerRow.weights,
            AnswerRow.template_version,
            AnswerRow.context_hash,
            AnswerRow.answer_kind,
        )
        .join(TargetAnswer, TargetAnswer.answer_id == AnswerRow.answer_id)
        .where(TargetAnswer.target_id == target_id)
        .order_by(TargetAnswer.ordinal)
    )
    return [SourceRow(*row) for row in await conn.execute(query)]


async def uses(conn: AsyncConnection, target_id: str) -> list[UseRow]:
    """Steps that consumed a target, the oldest record first."""
    return await _uses(conn, Consumed.target_id == target_id)


async def rollout_uses(conn: AsyncConnection, rollout_id: str) -> list[UseRow]:
    """Steps that consumed a rollout, the oldest record first."""
    return await _uses(conn, Consumed.rollout_id == rollout_id)


async def _uses(conn: AsyncConnection, which: ColumnElement[bool]) -> list[UseRow]:
    query = (
        select(Consumed.lineage, Consumed.step, Step.pack_sha256)
        .join(
            Step,
            (Step.run == Consumed.run)
            & (Step.lineage == Consumed.lineage)
            & (Step.step == Consumed.step),
        )
        .where(which)
        .order_by(Step.created_at)
    )
    return [UseRow(*row) for row in await conn.execute(query)]
