"""Order, cancellation and slow replies under load, through a real dispatcher."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections import Counter

import pytest
from dispatch_parts import noted, query, submission, until

from preceptor_clients.contract.errors import QueueFull, ServiceUnavailable
from preceptor_services.jobs.embedded_broker import running_broker

from .bad_servers import bad_server


async def _post(gateway, *moods: str, **fields) -> list[str]:
    """Tickets of questions of which each is a job of its own, on the stream in this order."""
    tickets = []
    for number, mood in enumerate(moods):
        [posted] = await gateway.client.submit_logprobs(
            "moody", [submission(f"{mood}-{number}", query(mood, number, **fields))]
        )
        tickets.append(posted.ticket.id)
    return tickets


async def _until_empty(gateway, timeout_s: float = 60.0) -> None:
    async with asyncio.timeout(timeout_s):
        while await gateway.queue.depth("moody"):
            await asyncio.sleep(0.05)


async def test_R20_an_urgent_question_overtakes_those_that_wait(
    make_deployment, moody, moody_log
) -> None:
    async with moody(max_batch=1) as url, make_deployment(moody=url) as gateway:
        await gateway.client.wait_ready(20)
        await _post(gateway, *["slow"] * 30, priority=9)
        await _post(gateway, "urgent", priority=0)
        async with gateway.dispatching():
            await _until_empty(gateway)

    assert noted(moody_log).index("urgent") == 0
    assert Counter(noted(moody_log)) == {"slow": 30, "urgent": 1}


async def test_R20_a_flood_of_urgent_questions_starves_nobody(
    make_deployment, moody, moody_log
) -> None:
    async with moody(max_batch=1) as url, make_deployment(moody=url) as gateway:
        await gateway.client.wait_ready(20)
        await _post(gateway, *["urgent"] * 30, priority=0)
        await _post(gateway, *["slow"] * 5, priority=9)
        async with gateway.dispatching():
            await _until_empty(gateway)

    # Of each class as many are taken at a time, so all five are asked among the first urgent ones.
    assert noted(moody_log)[:12].count("slow") == 5


async def test_R8_a_call_is_broken_off_once_all_its_members_are_cancelled(
    make_deployment, moody, moody_log
) -> None:
    async with moody() as url, make_deployment(moody=url) as gateway:
        await gateway.client.wait_ready(20)
        tickets = await _post(gateway, "hang1", "hang2")
        async with gateway.dispatching():
            await until(lambda: noted(moody_log) == ["hang1 hang2"])
            await gateway.client.cancel(tickets[0])
            await asyncio.sleep(0.5)
            after_one = noted(moody_log)
            await gateway.client.cancel(tickets[1])
            await until(lambda: noted(moody_log)[1:] == ["aborted hang1 hang2"])
            await _until_empty(gateway)

    assert after_one == ["hang1 hang2"]


async def test_R7_a_reply_of_one_byte_a_second_ends_at_the_deadline(make_deployment) -> None:
    async with (
        bad_server("trickles") as url,
        make_deployment(moody=url) as gateway,
        gateway.dispatching(),
    ):
        started = time.monotonic()
        [outcome] = await gateway.ask(submission("a", query("well", timeout_ms=1500)))
        took_s = time.monotonic() - started

    assert outcome.problem.code == "deadline-exceeded"
    assert outcome.answer is None
    assert took_s < 20  # its whole reply would take a quarter of an hour


@pytest.mark.gauntlet
async def test_R2_five_kills_of_the_broker_under_load_lose_nothing(
    make_deployment, moody, broker_folder, backend
) -> None:
    tickets: list[str] = []
    stop = asyncio.Event()

    async def load(gateway) -> None:
        number = 0
        while not stop.is_set():
            # Anything but an error that says "again" fails the test.
            with contextlib.suppress(ServiceUnavailable, QueueFull):
                asked = submission(f"k{number}", query(f"m{number // 8000}", number % 8000))
                [outcome] = await gateway.client.submit_logprobs("moody", [asked], timeout_s=30)
                tickets.append(outcome.ticket.id)
                number += 1

    with contextlib.ExitStack() as brokers:
        running = brokers.enter_context(running_broker(broker_folder, binary=backend.binary))
        port = int(running.url.rsplit(":", 1)[1].partition("/")[0])
        async with (
            moody(delay_s=0.02, max_batch=64) as url,
            make_deployment(broker_url=running.url, moody=url) as gateway,
            gateway.dispatching(lease_s=1.0),
        ):
            loading = asyncio.create_task(load(gateway))
            for _ in range(5):
                await asyncio.sleep(2.0)
                running.process.send_signal(signal.SIGKILL)
                running.process.wait()
                again = running_broker(broker_folder, port=port, binary=backend.binary)
                running = brokers.enter_context(again)
            await asyncio.sleep(2.0)
            stop.set()
            await loading
            states: Counter[str] = Counter()
            for start in range(0, len(tickets), 200):
                part = tickets[start : start + 200]
                outcomes = await gateway.client.collect_logprobs(part, wait_s=60.0)
                states.update(outcome.ticket.state for outcome in outcomes)

    assert len(tickets) > 100
    assert states == {"done": len(tickets)}


@pytest.mark.gauntlet
async def test_R8_five_hundred_of_a_thousand_are_cancelled_and_never_asked(
    make_deployment, moody, moody_log
) -> None:
    async with (
        moody(max_batch=1, max_concurrency=50) as url,
        make_deployment(moody=url) as gateway,
        gateway.dispatching(),
    ):
        hanging = await _post(gateway, *["hang"] * 50, timeout_ms=600_000)
        await until(lambda: noted(moody_log).count("hang") == 50)
        waiting = await _post(gateway, *(f"w{n}" for n in range(1000)), timeout_ms=600_000)
        await asyncio.gather(*(gateway.client.cancel(ticket) for ticket in waiting[:500]))
        before = [line for line in noted(moody_log) if line != "hang"]
        await asyncio.gather(*(gateway.client.cancel(ticket) for ticket in hanging))
        await until(lambda: noted(moody_log).count("aborted hang") == 50, 60.0)
        await _until_empty(gateway, 300.0)

    asked = {line for line in noted(moody_log) if line.startswith("w")}
    assert before == []
    assert asked == {f"w{number}" for number in range(500, 1000)}


@pytest.mark.gauntlet
async def test_R8_of_a_thousand_in_batches_the_cancelled_half_is_never_asked(
    make_deployment, moody, moody_log
) -> None:
    async with moody(max_batch=64) as url, make_deployment(moody=url) as gateway:
        await gateway.client.wait_ready(20)
        asked = [submission(f"w{n}", query(f"w{n}", timeout_ms=600_000)) for n in range(1000)]
        posted = [
            outcome.ticket.id
            for start in range(0, 1000, 50)
            for outcome in await gateway.client.submit_logprobs("moody", asked[start : start + 50])
        ]
        # Every other one, so that every job has some of both.
        await asyncio.gather(*(gateway.client.cancel(ticket) for ticket in posted[::2]))
        async with gateway.dispatching():
            outcomes = await gateway.client.collect_logprobs(posted, wait_s=60.0)
            await _until_empty(gateway, 300.0)

    calls = [line.split() for line in noted(moody_log)]
    assert sorted(word for call in calls for word in call) == sorted(
        f"w{n}" for n in range(1, 1000, 2)
    )
    assert max(len(call) for call in calls) > 1
    states = [outcome.ticket.state for outcome in outcomes]
    assert states == ["cancelled", "done"] * 500
