"""Adds an expert or a source to a running gateway, and waits for its state."""

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
    """Its name in the deployment."""
    role: ServiceRole = "expert"
    """Whether it answers with distributions or with feedback."""
    url: Annotated[str, StringConstraints(pattern=r"^https?://[^\s/@]+(/\S*)?$")]
    """Address at which the gateway reaches it."""
    key_file: Name
    """Name of a file in the gateway's folder `service_keys`; the key itself is never sent."""
    cost: Annotated[float, Field(ge=0, le=MOST_COST)] = 0.0
    """Price of an answer that states no cost."""
    priority: Annotated[int, Field(ge=0, le=9)] = 5
    """Of its jobs where the query leaves the default; 0 is first."""
    self_test: Flag = True
    """Whether the gateway tests a new version before callers may use it."""
    known: KnownAnswers | None = None
    """Answers that it must give, checked from time to time: the canary."""
    replaces: Flag = False
    """Replaces the service that was added at run time under this name."""


async def add_service(gateway: GatewayClient, new: NewService, *, wait_s: float) -> ServiceStatus:
    """Adds the service, and waits until the gateway has asked it.

    Args:
        gateway: A client with a key of scope `admin`.
        new: The service.
        wait_s: Seconds to wait for its first answer.

    Returns:
        Its state then; an unreachable service stays registered, and the gateway tries again.
    """
    status = await gateway.call("POST", "/v1/experts", body=new, reply=ServiceStatus)
    end = asyncio.get_running_loop().time() + wait_s
    while status.state == "unreachable" and asyncio.get_running_loop().time() < end:
        await asyncio.sleep(_PAUSE_S)
        listed = (await gateway.experts()).services
        status = next((s for s in listed if s.name == new.name), status)
    return status
