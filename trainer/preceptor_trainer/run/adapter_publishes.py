"""Whether a run with an adapter may publish that alone: all who load its versions must take it."""

from __future__ import annotations

from preceptor_clients.contract.schemas import ServiceStatus
from preceptor_clients.http.gateway import GatewayClient
from preceptor_trainer.collect.student import Student
from preceptor_trainer.run.config import RunConfig


async def adapters_suffice(config: RunConfig, gateway: GatewayClient, student: Student) -> bool:
    """True where the run trains an adapter, and neither sampler nor expert needs whole versions.

    An expert that cannot be reached now may need them.
    """
    if config.lora is None or not await student.takes_adapters():
        return False
    if not config.experts:
        return True
    asked = {use.name for use in config.experts}
    found = {one.name: one for one in (await gateway.experts()).services if one.name in asked}
    return found.keys() == asked and all(_takes_adapters(one) for one in found.values())


def _takes_adapters(service: ServiceStatus) -> bool:
    if service.info is None:
        return False
    capabilities = service.info.capabilities
    return capabilities.adapters or not capabilities.weights
