"""Blobs: tasks' private data, put once and named by hash."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from preceptor_clients.contract.errors import Invalid
from preceptor_clients.contract.schemas import Sha256
from preceptor_services.gateway.http.auth import Reader, Trainer
from preceptor_services.gateway.parts import Parts
from preceptor_services.store import services

router = APIRouter(tags=["blobs"])


@router.put("/v1/blobs/{sha256}", status_code=204)
async def put_blob(request: Request, sha256: Sha256, caller: Trainer, parts: Parts) -> None:
    """Stores the body, whose hash must be `sha256`."""
    data = await request.body()
    found = await parts.blobs.put(data)
    if found != sha256:
        raise Invalid(f"the body has SHA-256 {found}", field="sha256")
    async with parts.database.write() as conn:
        await services.add_blobs(conn, {sha256: len(data)}, parts.clock.now())


@router.get("/v1/blobs/{sha256}")
async def get_blob(sha256: Sha256, caller: Reader, parts: Parts) -> Response:
    """The bytes of that hash."""
    return Response(await parts.blobs.get(sha256), media_type="application/octet-stream")
