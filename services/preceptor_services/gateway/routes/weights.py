"""Weight versions."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from preceptor_clients.contract.schemas import Accepted, Name, Step, WeightManifest, WeightsOffer
from preceptor_services.gateway.http.auth import Anyone, Trainer
from preceptor_services.gateway.http.bodies import body_of, reply
from preceptor_services.gateway.http.depends import AuditDep, WeightOffersDep, WeightsDep
from preceptor_services.gateway.http.openapi import takes

router = APIRouter(tags=["weights"])


@router.post("/v1/weights", response_model=Accepted, openapi_extra=takes(WeightManifest))
async def register(
    request: Request,
    caller: Trainer,
    weights: WeightsDep,
    offers: WeightOffersDep,
    audit: AuditDep,
    manifest: Annotated[WeightManifest, Depends(body_of(WeightManifest))],
) -> Response:
    """Registers a version, which cannot change afterwards; experts are offered a checkpoint's."""
    new = await weights.register(manifest)
    if manifest.checkpoint:
        await offers.offer(manifest.version)
    if new:
        await audit.record(caller.name, "weights.register", manifest.version, uri=manifest.uri)
    return await reply(request, Accepted(new=new))


@router.get("/v1/weights/{policy}/{lineage}/{step}", response_model=WeightManifest)
async def get(
    request: Request, policy: Name, lineage: Name, step: Step, caller: Anyone, weights: WeightsDep
) -> Response:
    """The manifest of a version."""
    return await reply(request, await weights.find(f"{policy}/{lineage}/{step}"))


@router.get("/v1/weights/{policy}/{lineage}/{step}/lineage", response_model=WeightsOffer)
async def get_lineage(
    request: Request, policy: Name, lineage: Name, step: Step, caller: Anyone, weights: WeightsDep
) -> Response:
    """A version and all its ancestors, ancestors first."""
    chain = await weights.ancestry(f"{policy}/{lineage}/{step}")
    return await reply(request, WeightsOffer(manifests=chain))
