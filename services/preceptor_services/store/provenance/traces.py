"""Queries behind a trace: a target or a rollout, its answers and its uses."""

from __future__ import annotations

from typing import Final, NamedTuple

from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncConnection

from preceptor_services.store.tables.provenance import Consumed, Rollout, Step, Target, TargetAnswer
from preceptor_services.store.tables.questions import AnswerRow


class TargetRow(NamedTuple):
    """A target and the rollout that it belongs to."""

    target_pack: str
    rollout_id: str
    rollout_pack: str
    run: str
    lineage: str
    step: int
    problem_id: str
    weights: str
    num_tokens: int


class RolloutRow(NamedTuple):
    """A rollout."""

    group_id: str
    rollout_id: str
    rollout_pack: str
    run: str
    lineage: str
    step: int
    problem_id: str
    weights: str
    num_tokens: int


_OF_ROLLOUT: Final = (
    Rollout.id,
    Rollout.pack_sha256,
    Rollout.run,
    Rollout.lineage,
    Rollout.step,
    Rollout.problem_id,
    Rollout.weights,
    Rollout.num_tokens,
)
"""What both rows end with."""


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
        select(Target.pack_sha256, *_OF_ROLLOUT)
        .join(Rollout, Rollout.id == Target.rollout_id)
        .where(Target.id == target_id)
    )
    row = (await conn.execute(query)).first()
    return None if row is None else TargetRow(*row)


async def find_rollout(conn: AsyncConnection, rollout_id: str) -> RolloutRow | None:
    """One rollout."""
    query = select(Rollout.group_id, *_OF_ROLLOUT).where(Rollout.id == rollout_id)
    row = (await conn.execute(query)).first()
    return None if row is None else RolloutRow(*row)


async def newest_target(conn: AsyncConnection, rollout_id: str) -> str | None:
    """The id of the target that was made last for a rollout."""
    query = (
        select(Target.id)
        .where(Target.rollout_id == rollout_id)
        .order_by(Target.created_at.desc(), Target.id)
        .limit(1)
    )
    return (await conn.execute(query)).scalar()


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
