"""Dispatchers as processes that are killed, stopped and continued; a broker that is lost.

Each job is answered exactly once in the record, however often it was computed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path
from random import Random

import pytest
from dispatch_parts import noted, query, submission, until
from sqlalchemy import text

from preceptor_clients.contract.errors import QueueFull, ServiceUnavailable
from preceptor_clients.contract.schemas import LogprobsOutcomes, LogprobsRequest
from preceptor_services.jobs.embedded_broker import running_broker

pytestmark = pytest.mark.e2e


async def _post(gateway, count: int, mood: str = "well", **fields):
    """Ids of the tickets of so many different questions, each a job of its own."""
    posted = await asyncio.gather(
        *(
            gateway.client.submit_logprobs(
                "moody", [submission(f"k{i}", query(mood, i, **fields))], timeout_s=120.0
            )
            for i in range(count)
        )
    )
    return [outcome.ticket.id for [outcome] in posted]


async def _collect(gateway, tickets: list[str], timeout_s: float = 60.0):
    async with asyncio.timeout(timeout_s):
        while True:
            outcomes = await gateway.client.collect_logprobs(tickets, wait_s=5.0)
            if all(outcome.ticket.state not in ("queued", "running") for outcome in outcomes):
                return outcomes


async def _count(gateway, sql: str) -> int:
    async with gateway.database.read() as conn:
        return (await conn.execute(text(sql))).scalar_one()


async def test_R1_jobs_survive_two_kills_of_their_dispatcher(
    make_deployment, moody, moody_log: Path
) -> None:
    async with moody(delay_s=0.02, max_concurrency=2) as url, make_deployment(moody=url) as gateway:
        tickets = await _post(gateway, 300)
        for calls in (2, 5):
            victim = gateway.start_dispatcher()
            await until(lambda n=calls: len(noted(moody_log)) >= n)
            victim.send_signal(signal.SIGKILL)
        gateway.start_dispatcher()
        outcomes = await _collect(gateway, tickets, 120.0)

        assert [outcome.ticket.state for outcome in outcomes] == ["done"] * 300
        assert await _count(gateway, "select count(*) from answers where state = 'done'") == 300
        await _until_acknowledged(gateway)

    computed = _num_computed(moody_log)
    held = 2 * (2 + 2) * 16  # two victims, each with two calls running and two being reported
    assert computed <= 300 + held


@pytest.mark.gauntlet
async def test_R1_two_thousand_jobs_survive_forty_kills_of_three_dispatchers(
    make_deployment, moody, moody_log: Path
) -> None:
    random = Random(1)
    async with (
        moody(delay_s=0.02, max_batch=4, max_concurrency=1) as url,
        make_deployment(moody=url) as gateway,
    ):
        tickets = await _post(gateway, 2000, timeout_ms=600_000)
        workers = [gateway.start_dispatcher() for _ in range(3)]
        for _ in range(40):
            await asyncio.sleep(0.5)
            place = random.randrange(3)
            workers[place].kill()
            workers[place] = gateway.start_dispatcher()
        outcomes = await _collect(gateway, tickets, 500.0)
        assert Counter(outcome.ticket.state for outcome in outcomes) == {"done": 2000}
        assert await _count(gateway, "select count(*) from answers where state = 'done'") == 2000
        await _until_acknowledged(gateway)

    computed = _num_computed(moody_log)
    assert computed < 1.05 * 2000


async def test_R3_a_killed_gateway_loses_nothing_and_counts_nothing_twice(
    make_deployment, moody, moody_log: Path
) -> None:
    async with (
        moody() as url,
        make_deployment(moody=url, own_process=True) as gateway,
        gateway.dispatching(),
    ):
        asking = asyncio.create_task(
            gateway.ask(submission("a", query("gated", timeout_ms=300_000)), timeout_s=120.0)
        )
        await until(lambda: noted(moody_log) == ["gated"])
        gateway.gateway.kill()
        gateway.gateway.wait()
        gateway.start_gateway()
        moody_log.with_name("gate").touch()
        [outcome] = await asking
        [again] = await gateway.ask(submission("a", query("gated")), timeout_s=60.0)
        await _until_acknowledged(gateway)

        assert outcome.answer is not None
        assert again.ticket.id == outcome.ticket.id
        assert await _count(gateway, "select count(*) from tickets") == 1
        assert await _count(gateway, "select count(*) from answers where state = 'done'") == 1
        assert await _count(gateway, "select count(*) from attempts where outcome = 'done'") == 1


async def test_R12_a_stopping_gateway_completes_what_is_open_and_loses_nothing(
    make_deployment, moody, moody_log: Path
) -> None:
    async with (
        moody() as url,
        make_deployment(moody=url, own_process=True) as gateway,
        gateway.dispatching(),
    ):
        asked = (submission("a", query("gated", timeout_ms=300_000)),)
        body = LogprobsRequest(expert="moody", submissions=asked, wait_ms=60_000)
        waiting = asyncio.create_task(
            gateway.client.raw(
                "POST",
                "/v1/logprobs",
                content=body.model_dump_json().encode(),
                headers={"content-type": "application/json", "accept": "application/json"},
                timeout_s=90.0,
            )
        )
        await until(lambda: noted(moody_log) == ["gated"])
        gateway.gateway.terminate()
        reply = await waiting
        code = await asyncio.to_thread(gateway.gateway.wait, 30)

        gateway.start_gateway()
        moody_log.with_name("gate").touch()
        [outcome] = await gateway.ask(*asked, timeout_s=60.0)

    [told] = LogprobsOutcomes.model_validate_json(reply.body).outcomes
    assert (reply.status, told.ticket.state, code) == (200, "running", 0)
    assert outcome.ticket.id == told.ticket.id
    assert outcome.answer is not None


async def test_R5_the_late_report_of_a_paused_dispatcher_is_refused(
    make_deployment, moody, moody_log: Path, tmp_path: Path
) -> None:
    async with moody(max_concurrency=2) as url, make_deployment(moody=url) as gateway:
        paused = gateway.start_dispatcher(lease_s=2.0)
        [ticket] = await _post(gateway, 1, "gated")
        await until(lambda: noted(moody_log) == ["gated"])
        os.kill(paused.pid, signal.SIGSTOP)

        gateway.start_dispatcher(lease_s=2.0)
        await until(lambda: noted(moody_log) == ["gated", "gated"])
        moody_log.with_name("gate").touch()
        [outcome] = await _collect(gateway, [ticket])
        os.kill(paused.pid, signal.SIGCONT)

        await until(lambda: "under fence 2, not 1" in (tmp_path / "dispatcher.log").read_text())
        assert outcome.ticket.state == "done"
        assert await _count(gateway, "select fence from jobs") == 2
        assert await _count(gateway, "select count(*) from answers where state = 'done'") == 1


async def test_R4_a_flushed_broker_loses_no_question(make_deployment, moody, moody_log) -> None:
    async with moody() as url, make_deployment(moody=url) as gateway:
        tickets = await _post(gateway, 20)
        await gateway.queue._redis.flushall()
        async with gateway.dispatching():
            outcomes = await _collect(gateway, tickets)

    assert [outcome.ticket.state for outcome in outcomes] == ["done"] * 20
    asked = Counter(mood for line in noted(moody_log) for mood in line.split())
    assert asked["well"] == 20


async def test_R2_the_path_recovers_from_a_killed_broker(
    make_deployment, moody, broker_folder: Path, backend
) -> None:
    with running_broker(broker_folder, binary=backend.binary) as first:
        port = int(first.url.rsplit(":", 1)[1].partition("/")[0])
        async with (
            moody(delay_s=0.05) as url,
            make_deployment(broker_url=first.url, moody=url) as gateway,
            gateway.dispatching(lease_s=1.0),
        ):
            tickets = await _post(gateway, 40)
            first.process.send_signal(signal.SIGKILL)
            first.process.wait()
            with running_broker(broker_folder, port=port, binary=backend.binary):
                tickets += [await _post_until_taken(gateway)]
                outcomes = await _collect(gateway, tickets)

    assert [outcome.ticket.state for outcome in outcomes] == ["done"] * 41


async def _post_until_taken(gateway) -> str:
    async with asyncio.timeout(20):
        while True:
            # Anything but a retryable error fails the test.
            with contextlib.suppress(ServiceUnavailable, QueueFull):
                [outcome] = await gateway.client.submit_logprobs(
                    "moody", [submission("after", query("after"))]
                )
                return outcome.ticket.id


def _num_computed(log: Path) -> int:
    """Questions that were asked; a call that is broken off leaves a second line."""
    return sum(len(line.split()) for line in noted(log) if not line.startswith("aborted "))


async def _until_acknowledged(gateway) -> None:
    async with asyncio.timeout(20):
        while await gateway.queue.depth("moody"):
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def _another(port: int) -> AsyncGenerator[list[bytes]]:
    """A server in the gateway's place that knows no route: the heads of its requests."""
    asked: list[bytes] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(
                b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            )
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", port)
    try:
        yield asked
    finally:
        server.close()


async def test_a_dispatcher_touches_its_file_while_the_gateway_answers_and_then_no_more(
    make_deployment, moody, tmp_path: Path
) -> None:
    alive = tmp_path / "alive"
    async with (
        moody() as url,
        make_deployment(moody=url, own_process=True) as gateway,
    ):
        gateway.start_dispatcher("--alive-file", str(alive))
        await until(alive.exists, 60.0)
        gateway.gateway.kill()
        gateway.gateway.wait()
        alive.unlink()
        async with _another(gateway.settings.gateway.port) as asked:
            # A 404 is not tried again within a call: so often, two calls have failed.
            await until(lambda: sum(b"/v1/internal/services" in head for head in asked) > 2, 60.0)

        assert not alive.exists()
        gateway.start_gateway()
        await until(alive.exists, 60.0)
