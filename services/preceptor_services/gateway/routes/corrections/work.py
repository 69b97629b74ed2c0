"""The correction queue for annotators and reviewers: see `docs/how-to/corrections.md`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from preceptor_clients.contract.corrections import (
    Agreement,
    Claim,
    Claimed,
    Claims,
    ClaimWish,
    Decide,
    Draft,
    DraftSave,
    ExpertsView,
    ItemPage,
    ItemState,
    ItemView,
    Lease,
    Me,
    PageSettings,
    Rounds,
    Submission,
    Submitted,
    WithReason,
)
from preceptor_clients.contract.schemas import Name
from preceptor_services.corrections.views import length_of, version_of
from preceptor_services.gateway.http.bodies import body_of, reply
from preceptor_services.gateway.http.depends import CorrectionsDep
from preceptor_services.gateway.http.openapi import NO_BODY, takes
from preceptor_services.gateway.http.people import (
    Annotator,
    AnnotatorOrTrainer,
    Reviewer,
    ReviewerOrTrainer,
)

router = APIRouter(prefix="/v1/corrections", tags=["corrections"])


@router.get("/me", response_model=Me)
async def me(request: Request, actor: Annotator, corrections: CorrectionsDep) -> Response:
    """The caller's name, role, progress and stored page settings."""
    return await reply(request, await corrections.views.me(actor.name))


@router.put("/me/settings", status_code=204, openapi_extra=takes(PageSettings))
async def put_settings(
    actor: Annotator,
    corrections: CorrectionsDep,
    sent: Annotated[PageSettings, Depends(body_of(PageSettings))],
) -> None:
    """Stores the page's settings for this person."""
    await corrections.people.keep_settings(actor.name, sent.settings)


@router.get("/rounds", response_model=Rounds)
async def rounds(
    request: Request, actor: AnnotatorOrTrainer, corrections: CorrectionsDep
) -> Response:
    """Every round, with its counts."""
    return await reply(request, Rounds(rounds=await corrections.intake.rounds()))


@router.get("/rounds/{round_name}/agreement", response_model=Agreement)
async def agreement(
    request: Request, round_name: Name, actor: ReviewerOrTrainer, corrections: CorrectionsDep
) -> Response:
    """Agreement between people who corrected the same item independently."""
    return await reply(request, await corrections.outcome.agreement(round_name))


# ---------------------------------------------------------------- claims


@router.post("/claims", response_model=Claimed, openapi_extra=takes(ClaimWish))
async def claim(
    request: Request,
    actor: Annotator,
    corrections: CorrectionsDep,
    wish: Annotated[ClaimWish, Depends(body_of(ClaimWish))],
) -> Response:
    """Claims the next item under a lease."""
    row = await corrections.work.claim(actor.name, round_name=wish.round, item_id=wish.item)
    claimed = None if row is None else await corrections.views.claim(actor.role, row)
    size = 0 if claimed is None else length_of(claimed.item)
    return await reply(request, Claimed(claim=claimed), size=size)


@router.get("/claims", response_model=Claims)
async def my_claims(request: Request, actor: Annotator, corrections: CorrectionsDep) -> Response:
    """The active claims of the caller."""
    held: tuple[Claim, ...] = await corrections.views.held(actor.name, actor.role)
    return await reply(request, Claims(claims=held))


@router.post("/claims/{claim_id}/renew", response_model=Lease, openapi_extra=NO_BODY)
async def renew(
    request: Request, claim_id: str, actor: Annotator, corrections: CorrectionsDep
) -> Response:
    """Renews the lease to its full length from now."""
    row = await corrections.work.renew(actor.name, claim_id)
    now = corrections.work.clock.now()
    return await reply(
        request, Lease(id=row.id, state="active", lease_until=row.lease_until, now=now), size=0
    )


@router.post("/claims/{claim_id}/release", status_code=204, openapi_extra=NO_BODY)
async def release(claim_id: str, actor: Annotator, corrections: CorrectionsDep) -> None:
    """Releases the claim on the item."""
    await corrections.work.release(actor.name, claim_id)


@router.post("/claims/{claim_id}/skip", status_code=204, openapi_extra=takes(WithReason))
async def skip(
    claim_id: str,
    actor: Annotator,
    corrections: CorrectionsDep,
    sent: Annotated[WithReason, Depends(body_of(WithReason))],
) -> None:
    """Skips the item; other people may claim it."""
    await corrections.work.skip(actor.name, claim_id, sent.reason)


@router.post("/claims/{claim_id}/flag", status_code=204, openapi_extra=takes(WithReason))
async def flag(
    claim_id: str,
    actor: Annotator,
    corrections: CorrectionsDep,
    sent: Annotated[WithReason, Depends(body_of(WithReason))],
) -> None:
    """Flags a fault of the item."""
    await corrections.work.flag(actor.name, claim_id, sent.reason)


@router.post("/claims/{claim_id}/submit", response_model=Submitted, openapi_extra=takes(Submission))
async def submit(
    request: Request,
    claim_id: str,
    actor: Annotator,
    corrections: CorrectionsDep,
    sent: Annotated[Submission, Depends(body_of(Submission))],
) -> Response:
    """Submits a version of the item."""
    row, state = await corrections.work.submit(actor.name, claim_id, sent)
    version = version_of(row, row.id if state == "done" else None)
    submitted = Submitted(version=version, item_state=state)  # type: ignore[arg-type]  a column of states
    return await reply(request, submitted, size=len(version.text or ""))


# ---------------------------------------------------------------- items


@router.get("/items", response_model=ItemPage)
async def list_items(
    request: Request,
    actor: Annotator,
    corrections: CorrectionsDep,
    round: Name | None = None,
    state: ItemState | None = None,
    run: Name | None = None,
    mine: bool = False,
    after: Annotated[int, Query(ge=0, lt=1 << 31)] = 0,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> Response:
    """Items, a page at a time."""
    page = await corrections.views.page(
        actor.name,
        actor.role,
        round_name=round,
        state=state,
        run=run,
        mine=mine,
        after=after,
        limit=limit,
    )
    return await reply(request, page)


@router.get("/items/{item_id}", response_model=ItemView)
async def get_item(
    request: Request, item_id: str, actor: Annotator, corrections: CorrectionsDep
) -> Response:
    """One item."""
    return await reply(request, await corrections.views.item(item_id, actor.name, actor.role))


@router.get("/items/{item_id}/experts", response_model=ExpertsView)
async def get_experts(
    request: Request,
    item_id: str,
    actor: Annotator,
    corrections: CorrectionsDep,
    start: Annotated[int, Query(ge=0, lt=1 << 31)] = 0,
    stop: Annotated[int, Query(ge=0, lt=1 << 31)] = 2000,
) -> Response:
    """The response token by token, with each expert's distribution."""
    await corrections.views.item(item_id, actor.name, actor.role)
    view = await corrections.expert_views.tokens(item_id, start, min(stop, start + 5000))
    return await reply(request, view)


@router.put("/items/{item_id}/draft", response_model=Draft, openapi_extra=takes(DraftSave))
async def save_draft(
    request: Request,
    item_id: str,
    actor: Annotator,
    corrections: CorrectionsDep,
    sent: Annotated[DraftSave, Depends(body_of(DraftSave))],
) -> Response:
    """Stores a draft."""
    draft = await corrections.work.save_draft(actor.name, item_id, sent)
    return await reply(request, draft, size=len(draft.text or ""))


@router.delete("/items/{item_id}/draft", status_code=204)
async def drop_draft(item_id: str, actor: Annotator, corrections: CorrectionsDep) -> None:
    """Deletes the draft."""
    await corrections.work.drop_draft(actor.name, item_id)


@router.post("/items/{item_id}/review", response_model=ItemView, openapi_extra=takes(Decide))
async def review(
    request: Request,
    item_id: str,
    actor: Reviewer,
    corrections: CorrectionsDep,
    sent: Annotated[Decide, Depends(body_of(Decide))],
) -> Response:
    """Decides which version is authoritative."""
    await corrections.reviewing.decide(actor.name, item_id, sent)
    return await reply(request, await corrections.views.item(item_id, actor.name, actor.role))
