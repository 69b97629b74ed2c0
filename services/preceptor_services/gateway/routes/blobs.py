"""Blobs: private data of tasks, stored once under their hash."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Request, Response

from preceptor_clients.contract.schemas import Sha256
from preceptor_services.gateway.http.auth import Reader, Trainer
from preceptor_services.gateway.http.depends import QuestionsDep
from preceptor_services.gateway.http.openapi import returns

router = APIRouter(tags=["blobs"])

_BYTES: Final = "application/octet-stream"
_TAKES_BYTES: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {_BYTES: {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.put("/v1/blobs/{sha256}", status_code=204, openapi_extra=_TAKES_BYTES)
async def put_blob(
    request: Request, sha256: Sha256, caller: Trainer, questions: QuestionsDep
) -> None:
    """Stores the body, whose hash must be `sha256`."""
    data = await request.body()
    await questions.payloads.put(sha256, data)


@router.get("/v1/blobs/{sha256}", response_class=Response, responses=returns(_BYTES, of_bytes=True))
async def get_blob(sha256: Sha256, caller: Reader, questions: QuestionsDep) -> Response:
    """The blob with this hash."""
    return Response(await questions.payloads.get(sha256), media_type=_BYTES)
