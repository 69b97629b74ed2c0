"""Questions to experts and feedback sources."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from preceptor_clients.contract.schemas import (
    FeedbackOutcomes,
    FeedbackRequest,
    LogprobsOutcomes,
    LogprobsRequest,
)
from preceptor_services.gateway.http.auth import Trainer
from preceptor_services.gateway.http.bodies import body_of, reply, size_of
from preceptor_services.gateway.http.depends import QuestionsDep
from preceptor_services.gateway.http.openapi import takes

router = APIRouter(tags=["asking"])


@router.post("/v1/logprobs", response_model=LogprobsOutcomes, openapi_extra=takes(LogprobsRequest))
async def ask_expert(
    request: Request,
    caller: Trainer,
    questions: QuestionsDep,
    asked: Annotated[LogprobsRequest, Depends(body_of(LogprobsRequest))],
) -> Response:
    """Asks an expert for its distributions at the positions of the responses."""
    with questions.notifier.watch() as watch:
        posted = await questions.submissions.logprobs(caller.name, asked, watch)
        outcomes = await questions.outcomes.of_prefixes(caller.name, posted, asked.wait_ms, watch)
    return await reply(request, outcomes, size=size_of(outcomes))


@router.post("/v1/feedback", response_model=FeedbackOutcomes, openapi_extra=takes(FeedbackRequest))
async def ask_source(
    request: Request,
    caller: Trainer,
    questions: QuestionsDep,
    asked: Annotated[FeedbackRequest, Depends(body_of(FeedbackRequest))],
) -> Response:
    """Asks a feedback source to judge attempts."""
    with questions.notifier.watch() as watch:
        posted = await questions.submissions.feedback(caller.name, asked, watch)
        outcomes = await questions.outcomes.of_feedback(caller.name, posted, asked.wait_ms, watch)
    return await reply(request, outcomes, size=size_of(outcomes))
