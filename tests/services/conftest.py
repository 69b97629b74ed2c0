"""A real broker for the tests of the services: one process a session, emptied for each test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from preceptor_services.broker import Broker, running_broker
from preceptor_services.queue import JobQueue


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One broker for all tests that do not break it."""
    with running_broker(tmp_path_factory.mktemp("broker")) as running:
        yield running


@pytest.fixture
async def queue(broker: Broker) -> AsyncIterator[JobQueue]:
    """An empty queue on the shared broker."""
    queue = JobQueue.connect(broker.url, max_length=1000)
    await queue._redis.flushall()
    yield queue
    await queue.aclose()


@pytest.fixture
def broker_folder(tmp_path: Path) -> Path:
    """For tests that kill their own broker."""
    return tmp_path / "broker"


async def until(condition, timeout_s: float = 10.0) -> None:
    """Returns when `condition()`, perhaps awaitable, is true."""
    async with asyncio.timeout(timeout_s):
        while True:
            result = condition()
            if asyncio.iscoroutine(result):
                result = await result
            if result:
                return
            await asyncio.sleep(0.02)
