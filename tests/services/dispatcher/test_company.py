"""The first job of an idle service waits for company only where some came lately."""

from __future__ import annotations

from typing import Any

from preceptor_clients.contract.schemas import ServiceInfo
from preceptor_services.dispatcher.worker import ServiceWorker, WorkerConfig
from preceptor_services.jobs.streams import Delivery

INFO = ServiceInfo(name="e", role="expert", version="1")


class Stream:
    """Gives out what it is told to; keeps how long each read was ready to wait."""

    def __init__(self, *reads: int) -> None:
        self._reads = list(reads)
        self.waits: list[float] = []

    async def take(
        self, service: str, consumer: str, *, count: int, block_s: float
    ) -> list[Delivery]:
        self.waits.append(block_s)
        return [Delivery("s", f"1-{n}", f"j{n}", 1, False, 1) for n in range(self._reads.pop(0))]

    async def reclaim(self, *_: Any, **__: Any) -> list[Delivery]:
        return []


def worker_on(stream: Any) -> Any:
    parts: Any = {"queue": stream, "gateway": None, "client": None}
    return ServiceWorker("e", dispatcher="d", config=WorkerConfig(), **parts)


async def test_a_lone_caller_waits_for_company_once() -> None:
    stream = Stream(1, 0, 1, 1)
    worker = worker_on(stream)

    taken = [len(await worker._next_deliveries(INFO)) for _ in range(3)]

    assert taken == [1, 1, 1]
    assert [wait == 0 for wait in stream.waits] == [False, True, False, False]


async def test_jobs_that_came_together_let_the_next_one_wait() -> None:
    stream = Stream(1, 0, 1, 2, 1, 3)
    worker = worker_on(stream)

    taken = [len(await worker._next_deliveries(INFO)) for _ in range(4)]

    assert taken == [1, 1, 2, 4]
