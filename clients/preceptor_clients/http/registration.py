"""Adding an expert or a source to a gateway that runs, and hearing whether it is taken."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

from pydantic import Field, StringConstraints

from preceptor_clients.contract.known import KnownAnswers
from preceptor_clients.contract.schemas import (
    MOST_COST,
    Flag,
    Name,
    Request,
    ServiceRole,
    ServiceStatus,
)
from preceptor_clients.http.gateway import GatewayClient

_PAUSE_S: Final = 0.2


class NewService(Request):
    """`POST /v1/experts`: one more expert or source."""

    name: Name
    role: ServiceRole = "expert"
    url: Annotated[str, StringConstraints(pattern=r"^https?://[^\s/@]+(/\S*)?$")]
    key_file: Name
    """Name of a file in the gateway's folder `service_keys`; a key never travels."""
    cost: Annotated[float, Field(ge=0, le=MOST_COST)] = 0.0
    priority: Annotated[int, Field(ge=0, le=9)] = 5
    self_test: Flag = True
    """Whether a new version is asked questions of the gateway's own before anybody else may."""
    known: KnownAnswers | None = None
    """Answers that it must give, asked now and then: the canary."""
    replaces: Flag = False
    """Takes the place of the one that was added at run time under this name."""


async def add_service(gateway: GatewayClient, new: NewService, *, wait_s: float) -> ServiceStatus:
    """Adds the service, and waits until the gateway has asked it.

    Args:
        gateway: A client with a key of scope `admin`.
        new: The service.
        wait_s: How long it may take until it answers.

    Returns:
        Its state then; one that is still unreachable stays registered, and is asked again.
    """
    status = await gateway.call("POST", "/v1/experts", body=new, reply=ServiceStatus)
    end = asyncio.get_running_loop().time() + wait_s
    while status.state == "unreachable" and asyncio.get_running_loop().time() < end:
        await asyncio.sleep(_PAUSE_S)
        listed = (await gateway.experts()).services
        status = next((s for s in listed if s.name == new.name), status)
    return status
