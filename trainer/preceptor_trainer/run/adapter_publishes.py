"""Whether a run with an adapter may publish that alone: all who load its versions must take it."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from preceptor_clients.contract.schemas import ServiceStatus
from preceptor_clients.http.gateway import GatewayClient
from preceptor_trainer.collect.student import Student
from preceptor_trainer.run.config import RunConfig

_WAIT_S: Final = 30.0


async def adapters_suffice(
    config: RunConfig, gateway: GatewayClient, student: Student, *, wait_s: float = _WAIT_S
) -> bool:
    """True where the run trains an adapter, and neither sampler nor expert needs whole versions.

    An expert that cannot be reached for so long may need them.
    """
    if config.lora is None or not await student.takes_adapters():
        return False
    asked = {use.name for use in config.experts}
    end = time.monotonic() + wait_s
    while asked:
        found = [one for one in (await gateway.experts()).services if one.name in asked]
        if all(one.info is not None for one in found) or time.monotonic() >= end:
            return len(found) == len(asked) and all(_takes_adapters(one) for one in found)
        # The gateway has not asked it yet what it can, on a machine with much to do.
        await asyncio.sleep(0.2)
    return True


def _takes_adapters(service: ServiceStatus) -> bool:
    if service.info is None:
        return False
    capabilities = service.info.capabilities
    return capabilities.adapters or not capabilities.weights
