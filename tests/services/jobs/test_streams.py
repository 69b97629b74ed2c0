"""The queue on a real broker: nothing accepted is lost, whatever is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from preceptor_clients.contract.errors import QueueFull, ServiceUnavailable
from preceptor_services.jobs.embedded_broker import Broker, running_broker
from preceptor_services.jobs.streams import GROUP, JobStreams

WORKER = Path(__file__).with_name("queue_worker.py")


async def put(queue: JobStreams, *job_ids: str, priority: int = 5) -> None:
    for job_id in job_ids:
        await queue.put("teacher", job_id, priority=priority, tokens=7, exclusive=False)


async def take(queue: JobStreams, consumer: str = "one", count: int = 100):
    return await queue.take("teacher", consumer, count=count, block_s=0.0)


def job_ids(deliveries) -> list[str]:
    return [delivery.job_id for delivery in deliveries]


async def until(condition, timeout_s: float = 15.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not await condition():
            await asyncio.sleep(0.02)


async def test_jobs_come_in_order_and_urgent_ones_first(queue: JobStreams) -> None:
    await put(queue, "a", "b")
    await put(queue, "c", priority=0)

    taken = await take(queue)

    assert job_ids(taken) == ["c", "a", "b"]
    assert [(d.tokens, d.exclusive, d.deliveries) for d in taken] == [(7, False, 1)] * 3


async def test_concurrent_puts_keep_their_order(queue: JobStreams) -> None:
    names = [str(number) for number in range(200)]

    await asyncio.gather(*(put(queue, name) for name in names))

    assert job_ids(await take(queue, count=200)) == names


async def test_jobs_put_before_anybody_reads_are_delivered(queue: JobStreams) -> None:
    await put(queue, "early")

    assert job_ids(await take(queue)) == ["early"]


async def test_a_taken_job_is_not_given_to_another(queue: JobStreams) -> None:
    await put(queue, "a")
    await take(queue, "one")

    assert await take(queue, "two") == []


async def test_a_waiting_take_wakes_at_once(queue: JobStreams) -> None:
    await take(queue)
    waiting = asyncio.create_task(queue.take("teacher", "one", count=1, block_s=5.0))
    await asyncio.sleep(0.05)

    await put(queue, "a")

    assert job_ids(await asyncio.wait_for(waiting, 2.0)) == ["a"]


async def test_a_take_without_block_does_not_wait(queue: JobStreams) -> None:
    await take(queue)
    asked = asyncio.gather(*(take(queue) for _ in range(50)))

    # Each would be held for up to a tenth of a second by a block of a millisecond.
    assert await asyncio.wait_for(asked, 2.0) == [[]] * 50


async def test_a_full_stream_refuses_and_forgets_nothing(broker: Broker, queue: JobStreams) -> None:
    small = JobStreams.connect(broker.url, max_length=3)
    await put(small, "a", "b", "c")

    with pytest.raises(QueueFull, match="teacher"):
        await put(small, "d")

    taken = await take(small)
    assert job_ids(taken) == ["a", "b", "c"]
    # Jobs in work count too, until they are done.
    with pytest.raises(QueueFull):
        await put(small, "d")
    await small.done(taken[:1])
    await put(small, "d")
    await small.aclose()


async def test_callers_at_once_do_not_overshoot_the_bound(
    broker: Broker, queue: JobStreams
) -> None:
    callers = [JobStreams.connect(broker.url, max_length=5) for _ in range(10)]

    results = await asyncio.gather(
        *(put(caller, f"{i}") for i, caller in enumerate(callers)), return_exceptions=True
    )

    assert sum(isinstance(result, QueueFull) for result in results) == 5
    assert await queue.depth("teacher") == 5
    await asyncio.gather(*(caller.aclose() for caller in callers))


async def test_done_jobs_leave_the_stream(queue: JobStreams) -> None:
    await put(queue, "a", "b")
    await put(queue, "c", priority=1)

    await queue.done(await take(queue))

    assert await queue.depth("teacher") == 0
    assert await queue.reclaim("teacher", "two", min_idle_s=0.0, count=10) == []


async def test_an_idle_job_is_reclaimed_with_its_count(queue: JobStreams) -> None:
    await put(queue, "a")
    await take(queue, "one")
    assert await queue.reclaim("teacher", "two", min_idle_s=30.0, count=10) == []

    second = await queue.reclaim("teacher", "two", min_idle_s=0.0, count=10)
    third = await queue.reclaim("teacher", "three", min_idle_s=0.0, count=10)

    assert [d.deliveries for d in second + third] == [2, 3]


async def test_reclaiming_walks_through_everything_pending(queue: JobStreams) -> None:
    names = [str(number) for number in range(25)]
    await put(queue, *names)
    await take(queue, "one")

    found: list[str] = []
    for _ in range(20):
        found += job_ids(await queue.reclaim("teacher", "two", min_idle_s=0.0, count=4))

    assert set(found) == set(names)


async def test_a_renewed_job_is_not_reclaimed_and_counts_no_delivery(queue: JobStreams) -> None:
    await put(queue, "a")
    [job] = await take(queue, "one")
    idle = ("IDLE", 120_000, "JUSTID")  # as if it had been taken two minutes ago
    await queue._redis.execute_command("XCLAIM", job.stream, GROUP, "one", 0, job.entry_id, *idle)

    await queue.renew("one", [job])

    assert await queue.reclaim("teacher", "two", min_idle_s=60.0, count=10) == []
    [again] = await queue.reclaim("teacher", "two", min_idle_s=0.0, count=10)
    assert again.deliveries == 2


async def test_R4_a_flushed_broker_gets_its_group_again(queue: JobStreams) -> None:
    await put(queue, "a")
    [lost] = await take(queue)
    await queue._redis.flushall()

    await queue.renew("one", [lost])
    await queue.done([lost])
    assert await queue.reclaim("teacher", "one", min_idle_s=0.0, count=1) == []
    await put(queue, "a")

    assert job_ids(await take(queue)) == ["a"]


async def test_R4_a_flush_does_not_crash_somebody_who_waits(queue: JobStreams) -> None:
    await take(queue)
    waiting = asyncio.create_task(queue.take("teacher", "one", count=1, block_s=3.0))
    await asyncio.sleep(0.05)

    await queue._redis.flushall()

    assert await asyncio.wait_for(waiting, 5.0) == []
    await put(queue, "a")
    assert job_ids(await take(queue)) == ["a"]


async def test_cancellations_reach_every_listener(broker: Broker, queue: JobStreams) -> None:
    other = JobStreams.connect(broker.url)
    listeners = [queue.cancels(), other.cancels()]
    heard = [asyncio.ensure_future(anext(listener)) for listener in listeners]

    async def announced() -> bool:
        await queue.announce_cancel(["a", "b"])
        return all(one.done() for one in heard)

    await until(announced)

    assert [one.result() for one in heard] == ["a", "a"]
    for listener in listeners:
        await listener.aclose()
    await other.aclose()


async def test_an_absent_broker_is_a_clear_error() -> None:
    queue = JobStreams.connect("redis://127.0.0.1:1/0")

    assert not await queue.ping()
    with pytest.raises(ServiceUnavailable, match="broker"):
        await put(queue, "a")
    await queue.aclose()


async def test_R8_hundreds_of_cancellations_at_once_are_all_announced(queue: JobStreams) -> None:
    heard: set[str] = set()
    listening = asyncio.Event()

    async def hear() -> None:
        async for job_id in queue.cancels():
            heard.add(job_id)
            listening.set()

    hearing = asyncio.create_task(hear())
    async with asyncio.timeout(30):
        while not listening.is_set():
            await queue.announce_cancel(["first"])
            await asyncio.sleep(0.05)
        await asyncio.gather(*(queue.announce_cancel([f"j{n}"]) for n in range(500)))
        while len(heard) < 501:
            await asyncio.sleep(0.02)
    hearing.cancel()

    assert heard == {"first", *(f"j{n}" for n in range(500))}


async def test_many_callers_of_an_absent_broker_wait_no_longer_than_one() -> None:
    queue = JobStreams.connect("redis://127.0.0.1:1/0")
    tries = []
    original = queue._put_script

    async def counted(**words):
        tries.append(1)
        return await original(**words)

    queue._put_script = counted

    refused = await asyncio.gather(
        *(put(queue, str(number)) for number in range(50)), return_exceptions=True
    )

    assert all(isinstance(error, ServiceUnavailable) for error in refused)
    assert len(tries) < 50
    await queue.aclose()


async def test_R2_accepted_jobs_survive_the_kill_of_the_broker(broker_folder: Path) -> None:
    accepted: list[str] = []
    with running_broker(broker_folder) as first:
        port = int(first.url.rsplit(":", 1)[1].partition("/")[0])
        queue = JobStreams.connect(first.url)

        async def keep_putting() -> None:
            for number in range(100_000):
                await put(queue, str(number))
                accepted.append(str(number))

        putting = asyncio.create_task(keep_putting())
        async with asyncio.timeout(60):
            while len(accepted) < 100:
                await asyncio.sleep(0.01)
        first.process.send_signal(signal.SIGKILL)
        with pytest.raises(ServiceUnavailable):
            await putting

    with running_broker(broker_folder, port=port):
        found: list[str] = []
        while taken := await take(queue, count=1000):
            found += job_ids(taken)

    assert set(accepted) <= set(found)
    await queue.aclose()


async def test_R2_a_listener_comes_back_after_the_broker_restarted(broker_folder: Path) -> None:
    with running_broker(broker_folder) as first:
        port = int(first.url.rsplit(":", 1)[1].partition("/")[0])
        queue = JobStreams.connect(first.url)
        listener = queue.cancels()
        heard = asyncio.ensure_future(anext(listener))
        await asyncio.sleep(0.2)

    with running_broker(broker_folder, port=port):

        async def announced() -> bool:
            await queue.announce_cancel(["a"])
            return heard.done()

        await until(announced)
        await listener.aclose()
        await queue.aclose()

    assert heard.result() == "a"


async def test_R1_jobs_of_killed_workers_are_finished_by_others(
    broker: Broker, queue: JobStreams, tmp_path: Path
) -> None:
    names = [str(number) for number in range(300)]
    out = tmp_path / "done.txt"
    await put(queue, *names)

    def start(name: str) -> subprocess.Popen[bytes]:
        words = (broker.url, "teacher", name, str(out), "0.004")
        return subprocess.Popen([sys.executable, str(WORKER), *words])

    async def has_written(num_lines: int) -> bool:
        return out.exists() and len(out.read_bytes().splitlines()) >= num_lines

    victims = [start("v1"), start("v2")]
    try:
        await until(lambda: has_written(40))
        for victim in victims:
            victim.send_signal(signal.SIGKILL)
        survivor = start("s")

        async def empty() -> bool:
            return await queue.depth("teacher") == 0

        await until(empty)
    finally:
        for process in [*victims, survivor]:
            process.kill()
            process.wait()

    counts = Counter(out.read_text().split())
    assert set(counts) == set(names)
    assert sum(counts.values()) - len(names) <= 2 * 16  # what the victims held, at most
    assert os.WIFSIGNALED(victims[0].returncode) or victims[0].returncode == -signal.SIGKILL
