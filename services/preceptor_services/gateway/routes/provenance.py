"""Provenance: written by trainers, read with a key of scope trainer or reader."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from preceptor_clients.contract.listings import RolloutPage, RunDetails, RunPage, TargetPage
from preceptor_clients.contract.schemas import (
    Accepted,
    Accounting,
    Key,
    LineageRecord,
    Name,
    Records,
    RunRecord,
    StepRecord,
    Trace,
)
from preceptor_services.gateway.http.auth import Reader, Trainer
from preceptor_services.gateway.http.bodies import body_of, reply
from preceptor_services.gateway.http.depends import RecordsDep
from preceptor_services.gateway.http.openapi import takes
from preceptor_services.provenance.listings import (
    describe_run,
    list_rollouts,
    list_runs,
    list_targets,
)

router = APIRouter(tags=["provenance"])
Position = Annotated[int, Query(ge=0, lt=1 << 31)]
Limit = Annotated[int, Query(ge=1, le=10_000)]
Step = Annotated[int | None, Query(ge=0, lt=1 << 31, description="Counted from 0.")]


@router.post("/v1/runs", response_model=Accepted, openapi_extra=takes(RunRecord))
async def start_run(
    request: Request,
    caller: Trainer,
    records: RecordsDep,
    record: Annotated[RunRecord, Depends(body_of(RunRecord))],
) -> Response:
    """Records a run."""
    return await reply(request, await records.start_run(record))


@router.post("/v1/lineages", response_model=Accepted, openapi_extra=takes(LineageRecord))
async def start_lineage(
    request: Request,
    caller: Trainer,
    records: RecordsDep,
    record: Annotated[LineageRecord, Depends(body_of(LineageRecord))],
) -> Response:
    """Records one lineage of a run."""
    return await reply(request, await records.start_lineage(record))


@router.post("/v1/records", response_model=Accepted, openapi_extra=takes(Records))
async def add_records(
    request: Request,
    caller: Trainer,
    records: RecordsDep,
    new: Annotated[Records, Depends(body_of(Records))],
) -> Response:
    """Records rollouts and targets, all or none."""
    return await reply(request, await records.add(new))


@router.post("/v1/steps", response_model=Accepted, openapi_extra=takes(StepRecord))
async def add_step(
    request: Request,
    caller: Trainer,
    records: RecordsDep,
    record: Annotated[StepRecord, Depends(body_of(StepRecord))],
) -> Response:
    """Records one optimiser step and every rollout that it consumed."""
    return await reply(request, await records.add_step(record))


@router.get("/v1/runs/{run}/accounting", response_model=Accounting)
async def accounting(request: Request, run: Name, caller: Reader, records: RecordsDep) -> Response:
    """Totals of the surviving lineage of a run."""
    return await reply(request, await records.accounting(run))


@router.get("/v1/runs", response_model=RunPage)
async def get_runs(
    request: Request, caller: Reader, records: RecordsDep, after: str = "", limit: Limit = 100
) -> Response:
    """Every run on record, the newest first, a page at a time."""
    return await reply(request, await list_runs(records.database, after, limit))


@router.get("/v1/runs/{run}", response_model=RunDetails)
async def get_run(request: Request, run: Name, caller: Reader, records: RecordsDep) -> Response:
    """One run's record and its lineages."""
    return await reply(request, await describe_run(records.database, run))


@router.get("/v1/runs/{run}/rollouts", response_model=RolloutPage)
async def get_rollouts(
    request: Request,
    run: Name,
    caller: Reader,
    records: RecordsDep,
    step: Step = None,
    solved: bool | None = None,
    after: str = "",
    limit: Limit = 100,
) -> Response:
    """The run's rollouts with their scores, a page at a time; `solved` omits unjudged ones."""
    page = await list_rollouts(
        records.database,
        records.array_blobs,
        run,
        step=step,
        solved=solved,
        after=after,
        limit=limit,
    )
    return await reply(request, page)


@router.get("/v1/runs/{run}/targets", response_model=TargetPage)
async def get_targets(
    request: Request,
    run: Name,
    caller: Reader,
    records: RecordsDep,
    step: Step = None,
    solved: bool | None = None,
    after: str = "",
    limit: Limit = 1000,
) -> Response:
    """The run's targets, a page at a time."""
    page = await list_targets(
        records.database, run, step=step, solved=solved, after=after, limit=limit
    )
    return await reply(request, page)


@router.get("/v1/targets/{target_id}/trace", response_model=Trace)
async def get_trace(
    request: Request, target_id: Key, position: Position, caller: Reader, records: RecordsDep
) -> Response:
    """The sources of the target of one token."""
    return await reply(request, await records.trace(target_id, position))


@router.get("/v1/rollouts/{rollout_id}/trace", response_model=Trace)
async def get_rollout_trace(
    request: Request, rollout_id: Key, position: Position, caller: Reader, records: RecordsDep
) -> Response:
    """One token of a rollout: through its target, else with its credit and its judgements."""
    return await reply(request, await records.trace_rollout(rollout_id, position))
