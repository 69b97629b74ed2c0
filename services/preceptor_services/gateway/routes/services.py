"""Experts and sources: which there are, and adding one at run time."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from preceptor_clients.contract.errors import Invalid, NotFound
from preceptor_clients.contract.schemas import Answer, ServiceInfo, Services, ServiceStatus
from preceptor_clients.http.registration import NewService
from preceptor_services.gateway.http.auth import Admin, Anyone
from preceptor_services.gateway.http.bodies import body_of, reply
from preceptor_services.gateway.http.openapi import takes
from preceptor_services.gateway.parts import Parts
from preceptor_services.registry.services import ServiceEntry
from preceptor_services.store import services as stored

router = APIRouter(tags=["services"])


class ServiceVersion(Answer):
    """One version of a service, and what it said of itself."""

    info: ServiceInfo
    seen_at: float
    """Server time at which it was last heard anew."""


class ServiceVersions(Answer):
    """`GET /v1/experts/{name}/versions`: the last one first; each answer names its own."""

    versions: tuple[ServiceVersion, ...]


@router.get("/v1/experts", response_model=Services)
async def list_services(request: Request, caller: Anyone, parts: Parts) -> Response:
    """Every expert and source, with its state."""
    return await reply(request, Services(services=parts.registry.statuses()))


@router.post("/v1/experts", response_model=ServiceStatus, openapi_extra=takes(NewService))
async def add_service(
    request: Request,
    caller: Admin,
    parts: Parts,
    new: Annotated[NewService, Depends(body_of(NewService))],
) -> Response:
    """Adds a service, or moves one; it is asked for what it can do at once."""
    key_file = parts.settings.gateway.hash_key_file.parent / new.key_file
    if not key_file.is_file():
        raise Invalid("is no file beside the gateway's keys", field="key_file")
    entry = ServiceEntry(
        name=new.name,
        role=new.role,
        url=new.url,
        key_file=key_file,
        cost=new.cost,
        priority=new.priority,
        added_at_runtime=True,
        self_test=new.self_test,
        known=new.known,
    )
    await parts.registry.add(entry, replaces=new.replaces)
    return await reply(request, entry.status())


@router.get("/v1/experts/{name}/versions", response_model=ServiceVersions)
async def list_versions(request: Request, name: str, caller: Anyone, parts: Parts) -> Response:
    """Every version that a service has had here."""
    if name not in parts.registry.names():
        raise NotFound(f"no service is named {name!r}", field="name")
    async with parts.database.read() as conn:
        rows = await stored.versions(conn, name)
    versions = tuple(
        ServiceVersion(info=ServiceInfo.model_validate(row.info), seen_at=row.seen_at)
        for row in rows
    )
    return await reply(request, ServiceVersions(versions=versions))


@router.get("/v1/info", response_model=ServiceInfo)
async def info(request: Request, caller: Anyone) -> Response:
    """The gateway itself."""
    return await reply(
        request,
        ServiceInfo(name="gateway", role="gateway", version=version("preceptor"), frames=True),
    )
