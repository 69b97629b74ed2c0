"""The correction queue, for those who run it, for trainers, and for the people's expert."""

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
    People,
    Person,
    Questions,
    Results,
    Retire,
    Retirement,
    Round,
    RoundSettings,
    TakenItems,
    Vocabulary,
)
from preceptor_clients.contract.errors import Conflict, NotFound
from preceptor_clients.contract.schemas import Name, Sha256
from preceptor_services.corrections.parts import (
    NO_BODY,
    AdminOrTool,
    Corrections,
    Parts,
    PeoplesExpert,
    ReviewerOrTrainer,
)
from preceptor_services.corrections.views import people_of, person_of
from preceptor_services.gateway.http.bodies import body_of, reply
from preceptor_services.gateway.http.openapi import takes
from preceptor_services.store.corrections import people as people

router = APIRouter(prefix="/v1/corrections", tags=["corrections"])


# ---------------------------------------------------------------- people


@router.get("/people", response_model=People)
async def list_people(request: Request, actor: AdminOrTool, parts: Parts) -> Response:
    """Everybody."""
    async with parts.database.read() as conn:
        rows = await people.every(conn)
    return await reply(request, People(people=people_of(rows)))


@router.post("/people", response_model=IssuedKey, openapi_extra=takes(NewPerson))
async def add_person(
    request: Request,
    actor: AdminOrTool,
    parts: Parts,
    new: Annotated[NewPerson, Depends(body_of(NewPerson))],
) -> Response:
    """Lets somebody in; their key is shown this once."""
    key, digest = parts.keys.new()
    row = people.new_row(new.name, new.role, digest, parts.queue.clock.now())
    async with parts.database.write() as conn:
        if await people.find(conn, new.name) is not None:
            raise Conflict(f"somebody is called {new.name!r} already", field="name")
        await people.add(conn, row)
    return await reply(request, IssuedKey(person=await _person(parts, new.name), key=key))


@router.post("/people/{name}/key", response_model=IssuedKey, openapi_extra=NO_BODY)
async def new_key(request: Request, name: Name, actor: AdminOrTool, parts: Parts) -> Response:
    """A new key; the old one opens nothing any more."""
    key, digest = parts.keys.new()
    person = await _person(parts, name)
    if person.retired_at is not None:
        raise Conflict(f"{name} is retired", field="name")
    async with parts.database.write() as conn:
        await people.change(conn, name, token_hmac=digest, revoked_at=None)
    return await reply(request, IssuedKey(person=await _person(parts, name), key=key))


@router.delete("/people/{name}/key", response_model=Person)
async def revoke(request: Request, name: Name, actor: AdminOrTool, parts: Parts) -> Response:
    """Closes the door; what the person handed in stays."""
    await _person(parts, name)
    async with parts.database.write() as conn:
        await people.change(conn, name, revoked_at=parts.queue.clock.now())
    return await reply(request, await _person(parts, name))


@router.post("/people/{name}/retire", response_model=Retirement, openapi_extra=takes(Retire))
async def retire(
    request: Request,
    name: Name,
    actor: AdminOrTool,
    parts: Parts,
    sent: Annotated[Retire, Depends(body_of(Retire))],
) -> Response:
    """Takes a person's corrections out of what counts; lists what they had gone into."""
    return await reply(request, await parts.retiring.retire(name, sent.reason))


async def _person(parts: Corrections, name: str) -> Person:
    async with parts.database.read() as conn:
        row = await people.find(conn, name)
    if row is None:
        raise NotFound(f"nobody is called {name!r}", field="name")
    return person_of(row)


# ---------------------------------------------------------------- items in, results out


@router.put("/rounds/{round_name}", response_model=Round, openapi_extra=takes(RoundSettings))
async def put_round(
    request: Request,
    round_name: Name,
    actor: ReviewerOrTrainer,
    parts: Parts,
    settings: Annotated[RoundSettings, Depends(body_of(RoundSettings))],
) -> Response:
    """Makes a round, or changes its rules."""
    await parts.intake.put_round(round_name, settings)
    [made] = await parts.intake.rounds([round_name])
    return await reply(request, made)


@router.post("/items", response_model=TakenItems, openapi_extra=takes(NewItems))
async def add_items(
    request: Request,
    actor: ReviewerOrTrainer,
    parts: Parts,
    new: Annotated[NewItems, Depends(body_of(NewItems))],
) -> Response:
    """Takes items in, until the round's budget is spent."""
    taken = await parts.intake.add(new.round, new.items)
    return await reply(request, TakenItems(items=tuple(taken)))


@router.post("/rollouts", response_model=TakenItems, openapi_extra=takes(ByHand))
async def add_rollouts(
    request: Request,
    actor: ReviewerOrTrainer,
    parts: Parts,
    chosen: Annotated[ByHand, Depends(body_of(ByHand))],
) -> Response:
    """Takes recorded rollouts in, chosen by hand."""
    taken = await parts.intake.add_rollouts(chosen.round, chosen.rollout_ids, chosen.priority)
    return await reply(request, TakenItems(items=tuple(taken)))


@router.get("/results", response_model=Results)
async def results(
    request: Request,
    actor: ReviewerOrTrainer,
    parts: Parts,
    run: Name | None = None,
    round: Name | None = None,
    after: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> Response:
    """Changes of what counts since the cursor `after`, oldest first."""
    found = await parts.outcome.after(after, limit, run=run, round_name=round)
    return await reply(request, found)


@router.get("/export", response_model=ExportPage)
async def export(
    request: Request,
    actor: ReviewerOrTrainer,
    parts: Parts,
    round: Name | None = None,
    after: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> Response:
    """Items with their whole history, a page at a time."""
    return await reply(request, await parts.outcome.export(round, after, limit))


@router.post("/import", response_model=Imported, openapi_extra=takes(ImportLines))
async def take_import(
    request: Request,
    actor: AdminOrTool,
    parts: Parts,
    sent: Annotated[ImportLines, Depends(body_of(ImportLines))],
) -> Response:
    """Takes in what was exported elsewhere."""
    return await reply(request, await parts.outcome.take(sent, actor.name))


# ---------------------------------------------------------------- the people's expert


@router.post("/questions", status_code=204, openapi_extra=takes(Questions))
async def ask(
    actor: PeoplesExpert,
    parts: Parts,
    sent: Annotated[Questions, Depends(body_of(Questions))],
) -> None:
    """These questions wait for people."""
    await parts.intake.ask(sent.questions)


@router.get("/due", response_model=DueAnswers)
async def due(
    request: Request,
    actor: PeoplesExpert,
    parts: Parts,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> Response:
    """Answers that can be given now."""
    return await reply(request, DueAnswers(due=await parts.outcome.due(limit)))


@router.post("/lookup", response_model=DueAnswers, openapi_extra=takes(Lookup))
async def lookup(
    request: Request,
    actor: PeoplesExpert,
    parts: Parts,
    asked: Annotated[Lookup, Depends(body_of(Lookup))],
) -> Response:
    """Authoritative corrections with this text."""
    return await reply(
        request, DueAnswers(due=await parts.outcome.lookup(asked.prompt, asked.text))
    )


@router.post("/given", status_code=204, openapi_extra=takes(Given))
async def give(
    actor: PeoplesExpert,
    parts: Parts,
    sent: Annotated[Given, Depends(body_of(Given))],
) -> None:
    """These answers stand, made of these versions."""
    await parts.outcome.give(sent.answers)


@router.put("/vocabularies/{fingerprint}", status_code=204, openapi_extra=takes(Vocabulary))
async def put_vocabulary(
    fingerprint: Sha256,
    actor: PeoplesExpert,
    parts: Parts,
    sent: Annotated[Vocabulary, Depends(body_of(Vocabulary))],
) -> None:
    """Says how the ids of a vocabulary are spelled."""
    await parts.expert_views.put_vocabulary(fingerprint, sent)
