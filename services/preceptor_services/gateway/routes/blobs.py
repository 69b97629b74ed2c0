"""Blobs: private data of tasks, stored once under their hash."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from preceptor_clients.contract.schemas import Sha256
from preceptor_services.gateway.http.auth import Reader, Trainer
from preceptor_services.gateway.http.depends import QuestionsDep

router = APIRouter(tags=["blobs"])


@router.put("/v1/blobs/{sha256}", status_code=204)
async def put_blob(
    request: Request, sha256: Sha256, caller: Trainer, questions: QuestionsDep
) -> None:
    """Stores the body, whose hash must be `sha256`."""
    data = await request.body()
    await questions.payloads.put(sha256, data)


@router.get("/v1/blobs/{sha256}")
async def get_blob(sha256: Sha256, caller: Reader, questions: QuestionsDep) -> Response:
    """The blob with this hash."""
    return Response(await questions.payloads.get(sha256), media_type="application/octet-stream")
