"""Queries behind lists: runs, rollouts with their scores, targets. A page is by key, not offset."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, case, distinct, exists, func, or_, select, true
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import aliased

from preceptor_services.store.tables.provenance import (
    FeedbackItemRow,
    Lineage,
    Rollout,
    Run,
    Step,
    Target,
)
from preceptor_services.store.tables.questions import AnswerRow, Ticket


class RunRow(NamedTuple):
    """One run with the numbers of its records."""

    name: str
    seed: int
    created_at: float
    lineages: int
    steps: int
    rollouts: int
    targets: int


class RolloutRow(NamedTuple):
    """One rollout."""

    id: str
    lineage: str
    step: int
    problem_id: str
    group_id: str
    weights: str
    finish_reason: str
    num_tokens: int
    pack_sha256: str
    score: float | None
    target_id: str | None


class TargetRow(NamedTuple):
    """One target."""

    id: str
    num_tokens: int
    rollout_id: str
    lineage: str
    step: int
    problem_id: str
    score: float | None


class RewardRule(NamedTuple):
    """How a run's task makes a reward of the scores of its sources."""

    rule: str = "sum"
    """`sum`, `mean`, `min` or `first`."""
    weights: tuple[tuple[str, float], ...] = ()
    """Sources that count, and what their scores are multiplied by; all by 1 where empty."""


class Filter(NamedTuple):
    """Selects rows of a run: of one step, with a score from or below `solved_at`, after an id."""

    run: str
    reward: RewardRule
    step: int | None
    solved: bool | None
    solved_at: float
    after: str
    limit: int


async def find_run(conn: AsyncConnection, run: str) -> tuple[dict[str, Any], float] | None:
    """The run's record and the time at which it was added."""
    row = (await conn.execute(select(Run.document, Run.created_at).where(Run.name == run))).first()
    return None if row is None else (row[0], row[1])


async def runs(conn: AsyncConnection, after: str, limit: int) -> list[RunRow]:
    """Runs, the newest first, from the one that follows `after`."""
    rollouts = select(func.count()).where(Rollout.run == Run.name).scalar_subquery()
    targets = (
        select(func.count())
        .select_from(Target)
        .join(Rollout, Rollout.id == Target.rollout_id)
        .where(Rollout.run == Run.name)
        .scalar_subquery()
    )
    lineages = select(func.count()).where(Lineage.run == Run.name).scalar_subquery()
    steps = select(func.count(distinct(Step.step))).where(Step.run == Run.name).scalar_subquery()
    query = select(
        Run.name,
        Run.document["seed"].as_integer(),
        Run.created_at,
        lineages,
        steps,
        rollouts,
        targets,
    ).order_by(Run.created_at.desc(), Run.name)
    if after:
        begun = select(Run.created_at).where(Run.name == after).scalar_subquery()
        query = query.where(
            or_(Run.created_at < begun, (Run.created_at == begun) & (Run.name > after))
        )
    return [RunRow(*row) for row in await conn.execute(query.limit(limit))]


async def rollouts(conn: AsyncConnection, wanted: Filter) -> list[RolloutRow]:
    """Rollouts in the order of steps, then ids."""
    target = (
        select(Target.id)
        .where(Target.rollout_id == Rollout.id)
        .order_by(Target.created_at.desc())
        .limit(1)
        .correlate(Rollout)
        .scalar_subquery()
    )
    query = select(
        Rollout.id,
        Rollout.lineage,
        Rollout.step,
        Rollout.problem_id,
        Rollout.group_id,
        Rollout.weights,
        Rollout.finish_reason,
        Rollout.num_tokens,
        Rollout.pack_sha256,
        _score(wanted.reward),
        target,
    ).order_by(Rollout.step, Rollout.id)
    if wanted.after:
        step = select(Rollout.step).where(Rollout.id == wanted.after).scalar_subquery()
        query = query.where(
            or_(Rollout.step > step, (Rollout.step == step) & (Rollout.id > wanted.after))
        )
    found = await conn.execute(query.where(*_conditions(wanted)).limit(wanted.limit))
    return [RolloutRow(*row) for row in found]


async def scores_of_group(
    conn: AsyncConnection, reward: RewardRule, run: str, lineage: str, step: int, group_id: str
) -> list[tuple[str, float | None]]:
    """Id and reward of each rollout of a group, in the order of the ids."""
    query = (
        select(Rollout.id, _score(reward))
        .where(Rollout.run == run, Rollout.lineage == lineage, Rollout.step == step)
        .where(Rollout.group_id == group_id)
        .order_by(Rollout.id)
    )
    return [(row[0], row[1]) for row in await conn.execute(query)]


async def targets(conn: AsyncConnection, wanted: Filter) -> list[TargetRow]:
    """Targets in the order of their ids."""
    query = (
        select(
            Target.id,
            Rollout.num_tokens,
            Rollout.id,
            Rollout.lineage,
            Rollout.step,
            Rollout.problem_id,
            _score(wanted.reward),
        )
        .join(Rollout, Rollout.id == Target.rollout_id)
        .where(Target.id > wanted.after)
        .order_by(Target.id)
    )
    found = await conn.execute(query.where(*_conditions(wanted)).limit(wanted.limit))
    return [TargetRow(*row) for row in found]


def _conditions(wanted: Filter) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = [Rollout.run == wanted.run]
    if wanted.step is not None:
        found.append(Rollout.step == wanted.step)
    if wanted.solved is not None:
        score = _score(wanted.reward)
        found.append(score >= wanted.solved_at if wanted.solved else score < wanted.solved_at)
    return found


def _score(reward: RewardRule) -> ColumnElement[float]:
    """The reward of a rollout; NULL where nothing was scored, or a source that counts failed."""
    asked = (
        select(Ticket.answer_key)
        .where(
            Ticket.rollout_id == Rollout.id,
            Ticket.run == Rollout.run,
            Ticket.kind == "feedback",
        )
        .correlate(Rollout)
    )
    # No join with the tickets, because a question that was sent twice must count once.
    own = or_(FeedbackItemRow.answer_key.in_(asked), FeedbackItemRow.rollout_id == Rollout.id)
    replaced = aliased(FeedbackItemRow)
    successors = (
        select(replaced.superseded_by)
        .where(or_(replaced.answer_key.in_(asked), replaced.rollout_id == Rollout.id))
        .where(replaced.superseded_by.is_not(None))
        .correlate(Rollout)
    )
    stands = FeedbackItemRow.state == "standing"
    told = FeedbackItemRow.document["score"].as_float()
    # A judgement that was retired is missing, as one that failed; a text alone is left out.
    missing = or_(FeedbackItemRow.error.is_not(None), ~stands & told.is_not(None))
    score = case((stands, told))
    by_source = (
        select(
            FeedbackItemRow.source,
            func.sum(score).label("score"),
            func.sum(case((missing, 1), else_=0)).label("errors"),
        )
        .where(or_(own, FeedbackItemRow.id.in_(successors)))
        .where(FeedbackItemRow.state != "superseded", or_(stands, missing))
        .where(_counts(FeedbackItemRow.source, reward))
        .group_by(FeedbackItemRow.source)
        .correlate(Rollout)
        .subquery()
    )
    scored = (
        select(_combined(reward, by_source.c.source, by_source.c.score))
        .having(func.sum(by_source.c.errors) == 0)
        .having(func.count() >= len(_counted(reward)))
        .scalar_subquery()
    )
    # A sum without the source that gave no answer would be another reward.
    open_ = (
        exists()
        .where(AnswerRow.answer_key.in_(asked), AnswerRow.state != "done")
        .where(_counts(AnswerRow.service, reward))
        .correlate(Rollout)
    )
    return case((open_, None), else_=scored)


def _counted(reward: RewardRule) -> list[str]:
    names = [name for name, _ in reward.weights]
    return names[:1] if reward.rule == "first" else names


def _counts(source: Any, reward: RewardRule) -> ColumnElement[bool]:
    names = _counted(reward)
    return source.in_(names) if names else true()


def _combined(reward: RewardRule, source: Any, score: Any) -> ColumnElement[float]:
    """Of the sums of each source, as `CombinedTask.score` of the trainer."""
    if reward.rule == "min":
        return func.min(score)
    if reward.rule == "first" or not reward.weights:
        return func.sum(score)
    total = func.sum(score * case(dict(reward.weights), value=source))
    return total if reward.rule == "sum" else total / func.nullif(func.count(score), 0)
