"""Routes for dispatchers; see `preceptor_services.jobs.messages`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from preceptor_services.gateway.http.auth import Dispatcher
from preceptor_services.gateway.http.bodies import body_of, reply
from preceptor_services.gateway.http.depends import QuestionsDep, ReadinessDep, RegistryDep
from preceptor_services.gateway.http.openapi import takes
from preceptor_services.jobs.messages import (
    ClaimedJobs,
    ClaimRequest,
    Directory,
    ReportReply,
    ReportRequest,
)
from preceptor_services.kit.threads import FRAME_ADVANTAGE, ITEM

router = APIRouter(tags=["internal"])


@router.post("/v1/internal/claims", response_model=ClaimedJobs, openapi_extra=takes(ClaimRequest))
async def claim(
    request: Request,
    caller: Dispatcher,
    questions: QuestionsDep,
    asked: Annotated[ClaimRequest, Depends(body_of(ClaimRequest))],
) -> Response:
    """Claims jobs and returns their questions."""
    claims = await questions.claims.claim(asked)
    size = FRAME_ADVANTAGE * ITEM * sum(len(job.items) for job in claims.jobs)
    return await reply(request, claims, size=size, unread=True)


@router.post("/v1/internal/reports", response_model=ReportReply, openapi_extra=takes(ReportRequest))
async def report(
    request: Request,
    caller: Dispatcher,
    questions: QuestionsDep,
    sent: Annotated[ReportRequest, Depends(body_of(ReportRequest, integer_bits=None, unread=True))],
) -> Response:
    """Accepts the results of a call, or returns its jobs to the stream."""
    return await reply(request, await questions.reports.report(sent), size=ITEM)


@router.get("/v1/internal/services", response_model=Directory)
async def list_addresses(
    request: Request, caller: Dispatcher, registry: RegistryDep, readiness: ReadinessDep
) -> Response:
    """Lists the address of every service."""
    readiness.saw_dispatcher()
    return await reply(request, Directory(services=registry.addresses()))
