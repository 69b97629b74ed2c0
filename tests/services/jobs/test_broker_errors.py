"""A broker that answers with an error is unavailable, as one that does not answer is."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest

from preceptor_clients.contract.errors import ServiceUnavailable
from preceptor_services.jobs import streams
from preceptor_services.jobs.embedded_broker import free_port, running_broker
from preceptor_services.jobs.streams import Delivery, Entry, JobStreams
from preceptor_services.questions.put import put_jobs
from preceptor_services.store.questions.jobs import JobRow

_FAULTS = {
    "out of memory": [("CONFIG", "SET", "maxmemory", "1")],
    "no replicas": [("CONFIG", "SET", "min-replicas-to-write", "1")],
    "read only": [("REPLICAOF", "127.0.0.1", "1")],
}
_MENDED = (
    ("CONFIG", "SET", "maxmemory", "0"),
    ("CONFIG", "SET", "min-replicas-to-write", "0"),
    ("REPLICAOF", "NO", "ONE"),
)


async def _tell(queue: JobStreams, *commands: tuple[str, ...]) -> None:
    for words in commands:
        await queue._redis.execute_command(*words)


@pytest.fixture
async def own_queue(broker_folder: Path) -> Any:
    """A queue on a broker that nobody else uses."""
    with running_broker(broker_folder, port=free_port()) as broker:
        queue = JobStreams.connect(broker.url)
        yield queue
        await queue.aclose()


async def test_who_looks_at_a_broker_that_hangs_hears_so_while_it_hangs(
    broker_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "_LOOK_S", 0.2)
    with running_broker(broker_folder, port=free_port()) as broker:
        queue = JobStreams.connect(broker.url)
        assert await queue.ping()
        broker.process.send_signal(signal.SIGSTOP)
        try:
            async with asyncio.timeout(streams._SOCKET_TIMEOUT_S / 2):
                answers = await queue.ping()
                with pytest.raises(ServiceUnavailable, match="does not answer"):
                    await queue.depth("e")
        finally:
            broker.process.send_signal(signal.SIGCONT)
        async with asyncio.timeout(20):
            while not await queue.ping():
                pass
        await queue.aclose()

    assert not answers


@pytest.mark.parametrize("fault", _FAULTS)
async def test_every_use_of_a_broker_that_refuses_is_unavailable_until_it_serves_again(
    own_queue: JobStreams, fault: str
) -> None:
    queue, held = own_queue, Delivery("preceptor:jobs:{e}:normal", "1-1", "j", 1, False, 1)
    await queue.put("e", "before", priority=5, tokens=1, exclusive=False)
    await queue.take("e", "d", count=9, block_s=0)
    await _tell(queue, *_FAULTS[fault])

    uses = {
        "put": lambda: queue.put_all("e", [Entry("j", 5, 1, False)]),
        "take": lambda: queue.take("e", "d", count=1, block_s=0),
        "reclaim": lambda: queue.reclaim("e", "d", min_idle_s=0, count=1),
        "done": lambda: queue.done([held]),
    }
    refused: list[tuple[str, float | None]] = []
    for name, use in uses.items():
        try:
            await use()
        except ServiceUnavailable as error:
            refused.append((name, error.retry_after_s))
    await _tell(queue, *_MENDED)

    assert ("put", 1) in refused
    queue._down_until = 0.0
    assert await queue.put_all("e", [Entry("after", 5, 1, False)]) == 1
    assert [d.job_id for d in await queue.take("e", "d", count=9, block_s=0)] == ["after"]


async def test_jobs_that_a_read_only_broker_refuses_are_told_and_not_lost(
    own_queue: JobStreams,
) -> None:
    await _tell(own_queue, *_FAULTS["read only"])
    row = JobRow("j", "e", "logprobs", "queued", 5, 1, False, 0, 0, 0.0, None)

    assert await put_jobs(own_queue, [row]) == ["j"]
