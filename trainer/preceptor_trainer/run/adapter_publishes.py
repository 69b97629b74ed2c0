"""Whether a run with an adapter may publish that alone: all who load its versions must take it."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from preceptor_clients.contract.schemas import ServiceStatus
from preceptor_clients.http.gateway import GatewayClient
from preceptor_trainer.collect.student import Student
from preceptor_trainer.run.config import RunConfig
from preceptor_trainer.sampling.dialect import UnfitServer

_WAIT_S: Final = 30.0


async def adapters_suffice(
    config: RunConfig, gateway: GatewayClient, student: Student, *, wait_s: float = _WAIT_S
) -> bool:
    """True where the run trains an adapter, and neither sampler nor expert needs whole versions.

    An expert that cannot be reached for so long may need them.

    Raises:
        UnfitServer: whole versions are needed, and the sampler's server is shared with other runs.
    """
    if config.lora is None:
        return False
    is_shared = bool(getattr(config.sampler, "shared", False))
    if not await student.takes_adapters():
        if is_shared:
            raise UnfitServer(
                "rollout.sampler.shared: the server takes no adapters; start it with --enable-lora "
                "(vLLM also with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its environment)"
            )
        return False
    needing = await _experts_without(config, gateway, wait_s)
    if needing and is_shared:
        raise UnfitServer(
            f"rollout.sampler.shared: the teacher {needing[0]!r} takes no adapters, or did not "
            f"answer within {wait_s:.0f} s, so that versions would be whole and take the place of "
            "what other runs draw from; give the run a server of its own, or leave the teacher out"
        )
    return not needing


async def _experts_without(config: RunConfig, gateway: GatewayClient, wait_s: float) -> list[str]:
    """The run's experts that may need whole versions."""
    asked = {use.name for use in config.experts}
    end = time.monotonic() + wait_s
    while asked:
        found = [one for one in (await gateway.experts()).services if one.name in asked]
        if all(one.info is not None for one in found) or time.monotonic() >= end:
            return sorted(asked - {one.name for one in found if _takes_adapters(one)})
        # The gateway has not asked it yet what it can, on a machine with much to do.
        await asyncio.sleep(0.2)
    return []


def _takes_adapters(service: ServiceStatus) -> bool:
    if service.info is None:
        return False
    capabilities = service.info.capabilities
    return capabilities.adapters or not capabilities.weights
