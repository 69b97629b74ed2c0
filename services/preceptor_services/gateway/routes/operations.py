"""For operators: the audit log, jobs that were given up, feedback that is to count no longer."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from preceptor_clients.contract.operations import (
    AuditPage,
    DeadJobs,
    Replayed,
    RetiredItem,
    RetireItem,
)
from preceptor_clients.contract.schemas import Key
from preceptor_services.gateway.http.auth import Admin
from preceptor_services.gateway.http.bodies import body_of, reply
from preceptor_services.gateway.http.depends import AuditDep, QuestionsDep, RecordsDep
from preceptor_services.gateway.http.openapi import NO_BODY, takes
from preceptor_services.provenance.retire import retire

router = APIRouter(tags=["operations"])


@router.get("/v1/audit", response_model=AuditPage)
async def list_audit(
    request: Request,
    caller: Admin,
    audit: AuditDep,
    after: Annotated[int, Query(ge=0, lt=1 << 31)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> Response:
    """Who did what, the oldest first."""
    return await reply(request, await audit.page(after, limit))


@router.get("/v1/jobs/dead", response_model=DeadJobs)
async def list_dead(
    request: Request,
    caller: Admin,
    questions: QuestionsDep,
    after: str = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> Response:
    """Jobs that were given up after their last delivery, with the reasons."""
    return await reply(request, await questions.dead_letters.page(after, limit))


@router.post("/v1/jobs/{job_id}/replay", response_model=Replayed, openapi_extra=NO_BODY)
async def replay(
    request: Request, job_id: Key, caller: Admin, questions: QuestionsDep, audit: AuditDep
) -> Response:
    """Asks the questions of a dead job again; their tickets wait for the answers again."""
    replayed = await questions.dead_letters.replay(job_id)
    await audit.record(caller.name, "job.replay", job_id, questions=replayed.questions)
    return await reply(request, replayed)


@router.post("/v1/feedback/retire", response_model=RetiredItem, openapi_extra=takes(RetireItem))
async def retire_item(
    request: Request,
    caller: Admin,
    records: RecordsDep,
    audit: AuditDep,
    sent: Annotated[RetireItem, Depends(body_of(RetireItem))],
) -> Response:
    """Ends a feedback item: no reward, expert or trainer gets it any more."""
    found, is_new = await retire(records.database, sent)
    if is_new:
        more = {} if sent.superseded_by is None else {"superseded_by": sent.superseded_by}
        action = f"feedback.{'retire' if found.state == 'retired' else 'supersede'}"
        await audit.record(caller.name, action, sent.item_id, reason=sent.reason, **more)
    return await reply(request, found)
