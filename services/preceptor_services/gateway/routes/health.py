"""Health and metrics."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from sqlalchemy import text

from preceptor_clients.contract.errors import ServiceUnavailable
from preceptor_services.gateway.http.auth import Caller, Needs
from preceptor_services.gateway.parts import Parts

router = APIRouter(tags=["health"])


@router.get("/livez")
async def live() -> dict[str, str]:
    """The process runs."""
    return {"state": "live"}


@router.get("/readyz")
async def ready(request: Request, parts: Parts) -> dict[str, str]:
    """Database and broker answer."""
    if not request.app.state.ready:
        raise ServiceUnavailable("the gateway is starting or ending", retry_after_s=1.0)
    async with parts.database.read() as conn:
        await conn.execute(text("SELECT 1"))
    if not await parts.queue.ping():
        raise ServiceUnavailable("the broker does not answer", field="broker", retry_after_s=1.0)
    return {"state": "ready"}


@router.get("/metrics")
async def metrics(
    caller: Annotated[Caller, Depends(Needs("reader", "dispatcher"))], parts: Parts
) -> Response:
    """Counters in Prometheus' text format, those of the dispatchers' calls included."""
    for service in parts.registry.names():
        # A broker that is away must not hide the other figures, nor leave an old one standing.
        try:
            depth = float(await parts.queue.depth(service))
        except ServiceUnavailable:
            depth = float("nan")
        parts.metrics.queue_depth.labels(service).set(depth)
    return Response(parts.metrics.render(), media_type=CONTENT_TYPE_LATEST)
