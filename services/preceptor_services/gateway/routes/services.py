"""Experts and sources: listing them, and adding or removing one at run time."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from preceptor_clients.contract.listings import Quarantine, QuarantinedTarget
from preceptor_clients.contract.schemas import (
    Answer,
    Name,
    ServiceInfo,
    Services,
    ServiceStatus,
)
from preceptor_clients.contract.version import CONTRACT
from preceptor_clients.http.registration import NewService
from preceptor_services.gateway.http.auth import Admin, Anyone, Reader
from preceptor_services.gateway.http.bodies import body_of, reply
from preceptor_services.gateway.http.depends import AuditDep, QuestionsDep, RegistryDep
from preceptor_services.gateway.http.openapi import takes

router = APIRouter(tags=["services"])


class ServiceVersion(Answer):
    """One version of a service, with the information that it declared."""

    info: ServiceInfo
    """The reply of its `GET /v1/info`."""
    seen_at: float
    """Server time at which it was last recorded."""


class ServiceVersions(Answer):
    """`GET /v1/experts/{name}/versions`: the last one first; each answer names its version."""

    versions: tuple[ServiceVersion, ...]
    """Its versions."""


@router.get("/v1/experts", response_model=Services)
async def list_services(request: Request, caller: Anyone, registry: RegistryDep) -> Response:
    """Every expert and source, with its state."""
    return await reply(request, Services(services=registry.statuses()))


@router.post("/v1/experts", response_model=ServiceStatus, openapi_extra=takes(NewService))
async def add_service(
    request: Request,
    caller: Admin,
    registry: RegistryDep,
    audit: AuditDep,
    new: Annotated[NewService, Depends(body_of(NewService))],
) -> Response:
    """Adds or replaces a service; the registry requests its information at once."""
    status = await registry.add_new(new)
    await audit.record(caller.name, "service.add", new.name, url=new.url, role=new.role)
    return await reply(request, status)


@router.delete("/v1/experts/{name}", status_code=204)
async def remove_service(
    name: Name, caller: Admin, registry: RegistryDep, questions: QuestionsDep, audit: AuditDep
) -> None:
    """Removes a service that was added at run time; open questions to it fail."""
    await registry.remove(name)
    await questions.sweeper.give_up(name)
    await audit.record(caller.name, "service.remove", name)


@router.get("/v1/experts/{name}/quarantine", response_model=Quarantine)
async def list_quarantined(
    request: Request,
    name: Name,
    caller: Reader,
    registry: RegistryDep,
    after: str = "",
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> Response:
    """Targets built from answers between a service's last good inspection and a failed one."""
    found = await registry.quarantined(name, after, limit)
    page = Quarantine(
        targets=tuple(QuarantinedTarget(id=i, rollout_id=rollout) for i, rollout in found),
        after=found[-1][0] if len(found) == limit else None,
    )
    return await reply(request, page)


@router.get("/v1/experts/{name}/versions", response_model=ServiceVersions)
async def list_versions(
    request: Request, name: str, caller: Anyone, registry: RegistryDep
) -> Response:
    """Every recorded version of a service."""
    versions = tuple(
        ServiceVersion(info=info, seen_at=seen_at)
        for info, seen_at in await registry.versions(name)
    )
    return await reply(request, ServiceVersions(versions=versions))


@router.get("/v1/info", response_model=ServiceInfo)
async def info(request: Request, caller: Anyone) -> Response:
    """Name, role and version of the gateway."""
    return await reply(
        request,
        ServiceInfo(
            name="gateway",
            role="gateway",
            version=version("preceptor"),
            frames=True,
            contract=CONTRACT,
        ),
    )
