"""Tasks that belong together."""

from __future__ import annotations

import asyncio

import pytest

from preceptor_clients.contract.errors import ServiceUnavailable
from preceptor_trainer.kit.together import together


async def test_a_failure_ends_the_others_and_is_raised_by_itself():
    ended = list[str]()

    async def waits() -> None:
        try:
            await asyncio.sleep(600)
        finally:
            ended.append("waits")

    async def fails() -> None:
        await asyncio.sleep(0)
        raise ServiceUnavailable("the gateway is gone")

    async def both() -> None:
        async with together() as tasks:
            tasks.create_task(waits())
            tasks.create_task(fails())

    # A command says this error in a line; of a group it would print a traceback.
    with pytest.raises(ServiceUnavailable, match="the gateway is gone"):
        await both()

    assert ended == ["waits"]
