"""Outcomes of questions, cancelling them, and late answers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from preceptor_clients.contract.schemas import (
    Arrivals,
    CollectRequest,
    FeedbackOutcomes,
    LogprobsOutcomes,
    Name,
    PrefixAnswer,
    Sha256,
    Ticket,
)
from preceptor_services.gateway.http.auth import Expert, Trainer
from preceptor_services.gateway.http.bodies import body_of, reply, size_of
from preceptor_services.gateway.http.depends import QuestionsDep
from preceptor_services.gateway.http.openapi import takes
from preceptor_services.questions.submit import Posted

router = APIRouter(tags=["tickets"])


@router.post(
    "/v1/tickets/collect",
    response_model=LogprobsOutcomes | FeedbackOutcomes,
    openapi_extra=takes(CollectRequest),
)
async def collect(
    request: Request,
    caller: Trainer,
    questions: QuestionsDep,
    asked: Annotated[CollectRequest, Depends(body_of(CollectRequest))],
) -> Response:
    """Outcomes of tickets, in order."""
    posted = [Posted(ticket_id=ticket_id) for ticket_id in asked.tickets]
    with questions.notifier.watch(asked.tickets) as watch:
        kind = await questions.outcomes.kind_of(caller.name, asked.tickets, watch)
        read = (
            questions.outcomes.of_prefixes if kind == "logprobs" else questions.outcomes.of_feedback
        )
        outcomes = await read(caller.name, posted, asked.wait_ms, watch)
    return await reply(request, outcomes, size=size_of(outcomes))


@router.get("/v1/tickets/{ticket_id}", response_model=Ticket)
async def get_ticket(
    request: Request, ticket_id: str, caller: Trainer, questions: QuestionsDep
) -> Response:
    """One ticket's state."""
    return await reply(request, await questions.outcomes.ticket(caller.name, ticket_id))


@router.delete("/v1/tickets/{ticket_id}", response_model=Ticket)
async def cancel(
    request: Request, ticket_id: str, caller: Trainer, questions: QuestionsDep
) -> Response:
    """Cancels a ticket; a settled ticket does not change."""
    await questions.outcomes.ticket(caller.name, ticket_id)
    await questions.sweeper.cancel(ticket_id)
    return await reply(request, await questions.outcomes.ticket(caller.name, ticket_id))


@router.put("/v1/answers/{answer_key}", status_code=204, openapi_extra=takes(PrefixAnswer))
async def put_answer(
    answer_key: Sha256,
    caller: Expert,
    questions: QuestionsDep,
    answer: Annotated[PrefixAnswer, Depends(body_of(PrefixAnswer))],
) -> None:
    """Stores an answer that the key's expert promised; repeating it changes nothing."""
    await questions.late_answers.put(answer_key, answer, caller)


@router.get("/v1/arrivals", response_model=Arrivals)
async def arrivals(
    request: Request,
    caller: Trainer,
    questions: QuestionsDep,
    run: Name,
    after: Annotated[int, Query(ge=0, lt=1 << 31)] = 0,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> Response:
    """Late answers of a run since the cursor `after`, oldest first."""
    return await reply(
        request, await questions.late_answers.arrivals(run, caller.name, after, limit)
    )
