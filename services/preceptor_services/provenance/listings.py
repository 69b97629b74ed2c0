"""Lists of the recorded runs, rollouts and targets, to find ids without SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from preceptor_clients.contract.errors import NotFound
from preceptor_clients.contract.listings import (
    ItemPlace,
    LineagePlace,
    RolloutPage,
    RolloutPlace,
    RunDetails,
    RunPage,
    RunPlace,
    TargetPage,
    TargetPlace,
)
from preceptor_clients.contract.schemas import GroupAttempt, ItemState
from preceptor_services.kit.array_blobs import ArrayBlobs
from preceptor_services.store.database import Connection, Database
from preceptor_services.store.provenance import feedback, listings
from preceptor_services.store.provenance import runs as run_queries
from preceptor_services.store.provenance.feedback import ItemRow
from preceptor_services.store.provenance.listings import Filter, RewardRule, RolloutRow
from preceptor_services.store.provenance.traces import RolloutRow as TracedRow

_SOLVED_AT: Final = 0.5
"""Lowest score of a successful attempt, for tasks that do not declare one."""


async def list_runs(database: Database, after: str, limit: int) -> RunPage:
    """Runs, the newest first."""
    async with database.read() as conn:
        rows = await listings.runs(conn, after, limit)
    places = tuple(
        RunPlace(
            run=row.name,
            seed=row.seed,
            created_at=row.created_at,
            lineages=row.lineages,
            steps=row.steps,
            rollouts=row.rollouts,
            targets=row.targets,
        )
        for row in rows
    )
    return RunPage(runs=places, after=places[-1].run if len(places) == limit else None)


async def describe_run(database: Database, run: str) -> RunDetails:
    """A run's record and its lineages.

    Raises:
        NotFound: no run has this name.
    """
    async with database.read() as conn:
        document, created_at = await _found(conn, run)
        lineages = await run_queries.lineages(conn, run)
    return RunDetails(
        run=run,
        config=document["config"],
        seed=document["seed"],
        versions=document["versions"],
        created_at=created_at,
        lineages=tuple(
            LineagePlace(
                lineage=row.name,
                parent=row.parent,
                from_step=row.from_step,
                created_at=row.created_at,
                settings=row.document.get("settings", {}),
                versions=row.document.get("versions", {}),
            )
            for row in lineages.values()
        ),
    )


async def list_rollouts(
    database: Database,
    array_blobs: ArrayBlobs,
    run: str,
    *,
    step: int | None,
    solved: bool | None,
    after: str,
    limit: int,
) -> RolloutPage:
    """A run's rollouts in the order of steps."""
    async with database.read() as conn:
        document, _ = await _found(conn, run)
        solved_at, reward = _solved_at(document), _reward_of(document)
        wanted = Filter(run, reward, step, solved, solved_at, after, limit)
        rows = await listings.rollouts(conn, wanted)
        items = await feedback.listed(conn, [row.id for row in rows])
    packs = {sha: await array_blobs.read(sha) for sha in {row.pack_sha256 for row in rows}}
    places = tuple(
        _rollout(row, packs[row.pack_sha256], items.get(row.id, ()), solved_at) for row in rows
    )
    return RolloutPage(rollouts=places, after=places[-1].id if len(places) == limit else None)


async def list_targets(
    database: Database,
    run: str,
    *,
    step: int | None,
    solved: bool | None,
    after: str,
    limit: int,
) -> TargetPage:
    """A run's targets in the order of their ids."""
    async with database.read() as conn:
        document, _ = await _found(conn, run)
        solved_at, reward = _solved_at(document), _reward_of(document)
        wanted = Filter(run, reward, step, solved, solved_at, after, limit)
        rows = await listings.targets(conn, wanted)
    places = tuple(
        TargetPlace(**row._asdict(), solved=_solved(row.score, solved_at)) for row in rows
    )
    return TargetPage(targets=places, after=places[-1].id if len(places) == limit else None)


async def group_of(conn: Connection, row: TracedRow) -> tuple[GroupAttempt, ...]:
    """Every attempt of a rollout's group with its reward by the run's rule."""
    document, _ = await _found(conn, row.run)
    solved_at, reward = _solved_at(document), _reward_of(document)
    scored = await listings.scores_of_group(
        conn, reward, row.run, row.lineage, row.step, row.group_id
    )
    return tuple(
        GroupAttempt(rollout_id=name, score=score, solved=_solved(score, solved_at))
        for name, score in scored
    )


async def _found(conn: Connection, run: str) -> tuple[dict[str, Any], float]:
    found = await listings.find_run(conn, run)
    if found is None:
        raise NotFound(f"no run {run}", field="run")
    return found


def _rollout(
    row: RolloutRow, pack: Mapping[str, Any], items: Sequence[ItemRow], solved_at: float
) -> RolloutPlace:
    columns = {name: value for name, value in row._asdict().items() if name != "pack_sha256"}
    return RolloutPlace(
        **columns,
        response_text=pack[row.id]["response_text"],
        solved=_solved(row.score, solved_at),
        feedback=tuple(_item(item) for item in items),
    )


def _item(row: ItemRow) -> ItemPlace:
    return ItemPlace(
        id=row.id,
        source=row.source,
        score=row.document.get("score"),
        error=row.document.get("error"),
        state=cast("ItemState", row.state),
        state_reason=row.state_reason,
        superseded_by=row.superseded_by,
    )


def _solved(score: float | None, solved_at: float) -> bool | None:
    return None if score is None else score >= solved_at


def _solved_at(document: Mapping[str, Any]) -> float:
    """Lowest score of a successful attempt, from the task in the run's record."""
    task = document["config"].get("task")
    given = cast("dict[str, Any]", task).get("solved_at") if isinstance(task, dict) else None
    return float(given) if isinstance(given, (int, float)) else _SOLVED_AT


def _reward_of(document: Mapping[str, Any]) -> RewardRule:
    """How the task in the run's record makes a reward; the sum where it does not say so."""
    task = document["config"].get("task")
    given = cast("dict[str, Any]", task) if isinstance(task, dict) else {}
    sources, weights, rule = (given.get(name) for name in ("sources", "weights", "rule"))
    if not (isinstance(sources, list) and isinstance(weights, list) and isinstance(rule, str)):
        return RewardRule()
    named = zip(cast("list[str]", sources), cast("list[float]", weights), strict=False)
    return RewardRule(rule, tuple(named))
