"""Health and metrics."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Response
from prometheus_client import CONTENT_TYPE_LATEST

from preceptor_services.gateway.http.auth import Needs
from preceptor_services.gateway.http.depends import ReadinessDep
from preceptor_services.gateway.http.openapi import returns
from preceptor_services.registry.keyring import Caller

router = APIRouter(tags=["health"])


@router.get("/livez")
async def live() -> dict[str, str]:
    """Succeeds while the process runs."""
    return {"state": "live"}


@router.get("/readyz")
async def ready(readiness: ReadinessDep) -> dict[str, str]:
    """Succeeds if database and broker answer; tells how many services are ready."""
    return {"state": "ready", **await readiness.check()}


@router.get("/metrics", response_class=Response, responses=returns("text/plain"))
async def metrics(
    caller: Annotated[Caller, Depends(Needs("reader", "dispatcher"))], readiness: ReadinessDep
) -> Response:
    """Counters in Prometheus' text format, including those of the dispatchers' calls."""
    return Response(await readiness.figures(), media_type=CONTENT_TYPE_LATEST)
