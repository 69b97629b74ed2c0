"""The correction queue for admins, for trainers and for the people's expert."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from preceptor_clients.contract.corrections import (
    ByHand,
    DueAnswers,
    ExportPage,
    Given,
    Imported,
    ImportLines,
    IssuedKey,
    Lookup,
    NewItems,
    NewPerson,
    Person,
    PersonList,
    Questions,
    Results,
    Retire,
    Retirement,
    Round,
    RoundSettings,
    TakenItems,
    Vocabulary,
)
from preceptor_clients.contract.schemas import Name, VocabFingerprint
from preceptor_services.gateway.http.bodies import body_of, reply
from preceptor_services.gateway.http.depends import AuditDep, CorrectionsDep
from preceptor_services.gateway.http.openapi import NO_BODY, takes
from preceptor_services.gateway.http.people import (
    AdminOrTool,
    PeoplesExpert,
    ReviewerOrTrainer,
)

router = APIRouter(prefix="/v1/corrections", tags=["corrections"])


# ---------------------------------------------------------------- people


@router.get("/people", response_model=PersonList)
async def list_people(
    request: Request, actor: AdminOrTool, corrections: CorrectionsDep
) -> Response:
    """All people of the correction queue."""
    return await reply(request, await corrections.people.every())


@router.post("/people", response_model=IssuedKey, openapi_extra=takes(NewPerson))
async def add_person(
    request: Request,
    actor: AdminOrTool,
    corrections: CorrectionsDep,
    audit: AuditDep,
    new: Annotated[NewPerson, Depends(body_of(NewPerson))],
) -> Response:
    """Adds a person; only this reply shows their key."""
    added = await corrections.people.add(new)
    await audit.record(actor.name, "person.add", new.name, role=new.role)
    return await reply(request, added)


@router.post("/people/{name}/key", response_model=IssuedKey, openapi_extra=NO_BODY)
async def new_key(
    request: Request, name: Name, actor: AdminOrTool, corrections: CorrectionsDep, audit: AuditDep
) -> Response:
    """Issues a new key and revokes the old one."""
    issued = await corrections.people.new_key(name)
    await audit.record(actor.name, "person.key", name)
    return await reply(request, issued)


@router.delete("/people/{name}/key", response_model=Person)
async def revoke(
    request: Request, name: Name, actor: AdminOrTool, corrections: CorrectionsDep, audit: AuditDep
) -> Response:
    """Revokes the person's key; their submissions stay."""
    person = await corrections.people.revoke(name)
    await audit.record(actor.name, "person.revoke", name)
    return await reply(request, person)


@router.post("/people/{name}/retire", response_model=Retirement, openapi_extra=takes(Retire))
async def retire(
    request: Request,
    name: Name,
    actor: AdminOrTool,
    corrections: CorrectionsDep,
    audit: AuditDep,
    sent: Annotated[Retire, Depends(body_of(Retire))],
) -> Response:
    """Withdraws a person's corrections and lists the targets that used them."""
    retirement = await corrections.retiring.retire(name, sent.reason)
    await audit.record(actor.name, "person.retire", name, reason=sent.reason)
    return await reply(request, retirement)


# ---------------------------------------------------------------- items in, results out


@router.put("/rounds/{round_name}", response_model=Round, openapi_extra=takes(RoundSettings))
async def put_round(
    request: Request,
    round_name: Name,
    actor: ReviewerOrTrainer,
    corrections: CorrectionsDep,
    audit: AuditDep,
    settings: Annotated[RoundSettings, Depends(body_of(RoundSettings))],
    keep: bool = False,
) -> Response:
    """Creates a round or changes its rules; with `keep`, an existing round keeps its rules."""
    await corrections.intake.put_round(round_name, settings, keep=keep)
    [made] = await corrections.intake.rounds([round_name])
    await audit.record(actor.name, "round.put", round_name, keep=keep)
    return await reply(request, made)


@router.post("/items", response_model=TakenItems, openapi_extra=takes(NewItems))
async def add_items(
    request: Request,
    actor: ReviewerOrTrainer,
    corrections: CorrectionsDep,
    new: Annotated[NewItems, Depends(body_of(NewItems))],
) -> Response:
    """Adds items until the round's budget is spent."""
    taken = await corrections.intake.add(new.round, new.items)
    return await reply(request, TakenItems(items=tuple(taken)))


@router.post("/rollouts", response_model=TakenItems, openapi_extra=takes(ByHand))
async def add_rollouts(
    request: Request,
    actor: ReviewerOrTrainer,
    corrections: CorrectionsDep,
    chosen: Annotated[ByHand, Depends(body_of(ByHand))],
) -> Response:
    """Adds recorded rollouts that were chosen by hand."""
    taken = await corrections.intake.add_rollouts(chosen.round, chosen.rollout_ids, chosen.priority)
    return await reply(request, TakenItems(items=tuple(taken)))


@router.get("/results", response_model=Results)
async def results(
    request: Request,
    actor: ReviewerOrTrainer,
    corrections: CorrectionsDep,
    run: Name | None = None,
    round: Name | None = None,
    after: Annotated[int, Query(ge=0, lt=1 << 31)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> Response:
    """Changes of authoritative results since the cursor `after`, oldest first."""
    found = await corrections.outcome.after(after, limit, run=run, round_name=round)
    return await reply(request, found)


@router.get("/export", response_model=ExportPage)
async def export(
    request: Request,
    actor: ReviewerOrTrainer,
    corrections: CorrectionsDep,
    round: Name | None = None,
    after: Annotated[int, Query(ge=0, lt=1 << 31)] = 0,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> Response:
    """Items with their whole history, a page at a time."""
    return await reply(request, await corrections.outcome.export(round, after, limit))


@router.post("/import", response_model=Imported, openapi_extra=takes(ImportLines))
async def take_import(
    request: Request,
    actor: AdminOrTool,
    corrections: CorrectionsDep,
    audit: AuditDep,
    sent: Annotated[ImportLines, Depends(body_of(ImportLines))],
) -> Response:
    """Imports lines of an export."""
    imported = await corrections.outcome.take(sent, actor.name)
    await audit.record(actor.name, "corrections.import", sent.round or "", lines=len(sent.lines))
    return await reply(request, imported)


# ---------------------------------------------------------------- the people's expert


@router.post("/questions", status_code=204, openapi_extra=takes(Questions))
async def ask(
    actor: PeoplesExpert,
    corrections: CorrectionsDep,
    sent: Annotated[Questions, Depends(body_of(Questions))],
) -> None:
    """Adds questions that wait for people."""
    await corrections.intake.ask(sent.questions, actor.services)


@router.get("/due", response_model=DueAnswers)
async def due(
    request: Request,
    actor: PeoplesExpert,
    corrections: CorrectionsDep,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> Response:
    """Answers that are ready to be given."""
    return await reply(
        request, DueAnswers(due=await corrections.outcome.due(limit, actor.services))
    )


@router.post("/lookup", response_model=DueAnswers, openapi_extra=takes(Lookup))
async def lookup(
    request: Request,
    actor: PeoplesExpert,
    corrections: CorrectionsDep,
    asked: Annotated[Lookup, Depends(body_of(Lookup))],
) -> Response:
    """Authoritative corrections with this text."""
    return await reply(
        request, DueAnswers(due=await corrections.outcome.lookup(asked.prompt, asked.text))
    )


@router.post("/given", status_code=204, openapi_extra=takes(Given))
async def give(
    actor: PeoplesExpert,
    corrections: CorrectionsDep,
    sent: Annotated[Given, Depends(body_of(Given))],
) -> None:
    """Records which answers were given, and the versions that they were made from."""
    await corrections.outcome.give(sent.answers, actor.services)


@router.put("/vocabularies/{fingerprint}", status_code=204, openapi_extra=takes(Vocabulary))
async def put_vocabulary(
    fingerprint: VocabFingerprint,
    actor: PeoplesExpert,
    corrections: CorrectionsDep,
    sent: Annotated[Vocabulary, Depends(body_of(Vocabulary))],
) -> None:
    """Stores the spelling of the ids of a vocabulary."""
    await corrections.expert_views.put_vocabulary(fingerprint, sent)
