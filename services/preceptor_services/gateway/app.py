"""The gateway as an ASGI application."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from functools import partial
from importlib.metadata import version
from typing import Final

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from preceptor_clients.contract.deployment import Deployment
from preceptor_clients.contract.json_text import allow_long_integers
from preceptor_clients.http.addresses import AddressPolicy
from preceptor_clients.http.connection import NO_RETRY
from preceptor_clients.http.service import ServiceClient
from preceptor_services.gateway.http.direct import DirectRoutes
from preceptor_services.gateway.http.headers import StrictHeaders
from preceptor_services.gateway.http.middleware import BodyLimit, CountRequests
from preceptor_services.gateway.http.openapi import describe
from preceptor_services.gateway.http.problems import add_handlers
from preceptor_services.gateway.parts import Parts
from preceptor_services.gateway.routes import (
    blobs,
    health,
    home,
    operations,
    services,
    tickets,
    weights,
)
from preceptor_services.gateway.routes import jobs as internal
from preceptor_services.gateway.routes import provenance as records
from preceptor_services.gateway.routes import questions as asking
from preceptor_services.gateway.routes.corrections import admin as corrections_admin
from preceptor_services.gateway.routes.corrections import page as corrections_page
from preceptor_services.gateway.routes.corrections import work as corrections
from preceptor_services.gateway.routes.vllm import face as vllm_face
from preceptor_services.jobs.queue import JobQueue
from preceptor_services.kit.blobs import BlobStore
from preceptor_services.kit.clock import Clock, ServerClock
from preceptor_services.registry.services import Connect, InfoClient
from preceptor_services.store.database import Database

_MOST_TESTED_BYTES: Final = 64 << 20
"""Limit of replies to the registry's self-test, whose questions are short."""
_AREAS = (
    *(asking, tickets, weights, records, services, blobs, internal, operations, health),
    *(corrections, corrections_admin, corrections_page, vllm_face, home),
)


class _Gateway(FastAPI):
    """An application whose simple routes are called directly."""

    direct: DirectRoutes
    counted: ASGIApp
    """`direct` with metrics."""
    outermost: ASGIApp
    """`route_all` with what holds for every reply, also those of the framework's error handler."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.outermost(scope, receive, send)

    async def route_all(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Calls a simple route, or the framework."""
        if self.direct.serves(scope):
            await self.counted(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def connect_service(url: str, key: str, addresses: AddressPolicy) -> InfoClient:
    """The registry's client, without retries because the registry itself asks again."""
    return ServiceClient(
        url,
        key,
        max_concurrency=1,
        retry=NO_RETRY,
        max_reply_bytes=_MOST_TESTED_BYTES,
        addresses=addresses,
    )


def create_app(
    settings: Deployment,
    database: Database,
    blob_store: BlobStore,
    queue: JobQueue,
    *,
    connect: Connect = connect_service,
    clock: Clock | None = None,
) -> FastAPI:
    """The application. The caller closes the collaborators after the application has stopped.

    Args:
        settings: The deployment.
        database: Holds the rows; its tables are migrated at the start.
        blob_store: Holds arrays and payloads.
        queue: Receives the jobs.
        connect: Makes clients of services.
        clock: Server time.
    """
    allow_long_integers()
    parts = Parts.build(settings, database, blob_store, queue, connect, clock or ServerClock())

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        await parts.start()
        try:
            yield
        finally:
            await parts.stop()

    app = _Gateway(
        title="preceptor gateway",
        version=version("preceptor"),
        lifespan=lifespan,
        docs_url=None,
        # A redirect would be built from the Host header, which the client controls.
        redirect_slashes=False,
        redoc_url=None,
    )
    parts.attach(app)
    app.openapi = partial(describe, app)
    add_handlers(app)
    for area in _AREAS:
        app.include_router(area.router)
    max_bytes = settings.gateway.max_body_bytes
    app.add_middleware(BodyLimit, max_bytes=max_bytes)
    app.add_middleware(CountRequests, metrics=parts.metrics)
    routes = [route for area in _AREAS for route in area.router.routes]
    app.direct = DirectRoutes(app, routes, BodyLimit(app, max_bytes))
    app.counted = CountRequests(app.direct, parts.metrics)
    app.outermost = StrictHeaders(app.route_all)
    return app
