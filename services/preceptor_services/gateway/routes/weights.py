"""Weight versions."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from preceptor_clients.contract.schemas import Accepted, Name, WeightManifest, WeightsOffer
from preceptor_services.gateway.http.auth import Anyone, Trainer
from preceptor_services.gateway.http.bodies import body_of, reply
from preceptor_services.gateway.http.openapi import takes
from preceptor_services.gateway.parts import Parts
from preceptor_services.registry import weights

router = APIRouter(tags=["weights"])


@router.post("/v1/weights", response_model=Accepted, openapi_extra=takes(WeightManifest))
async def register(
    request: Request,
    caller: Trainer,
    parts: Parts,
    manifest: Annotated[WeightManifest, Depends(body_of(WeightManifest))],
) -> Response:
    """Makes a version known; it never changes again."""
    roots = parts.settings.gateway.weights_roots
    new = await weights.register(parts.database, parts.clock, roots, manifest)
    return await reply(request, Accepted(new=new))


@router.get("/v1/weights/{policy}/{lineage}/{step}", response_model=WeightManifest)
async def get(
    request: Request, policy: Name, lineage: Name, step: int, caller: Anyone, parts: Parts
) -> Response:
    """The manifest of a version."""
    return await reply(request, await weights.find(parts.database, f"{policy}/{lineage}/{step}"))


@router.get("/v1/weights/{policy}/{lineage}/{step}/lineage", response_model=WeightsOffer)
async def get_lineage(
    request: Request, policy: Name, lineage: Name, step: int, caller: Anyone, parts: Parts
) -> Response:
    """A version and all its ancestors, ancestors first."""
    chain = await weights.ancestry(parts.database, f"{policy}/{lineage}/{step}")
    return await reply(request, WeightsOffer(manifests=chain))
