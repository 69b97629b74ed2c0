"""Floods, long use, clocks that jump: what is bounded stays so, what was accepted is done."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import psutil
import pytest
from dispatch_parts import noted, query, submission, until

from preceptor_clients.contract.schemas import LogprobsOutcomes, LogprobsRequest
from preceptor_clients.http.connection import _Request

_MB = 1 << 20


async def _post_raw(gateway, number: int, **fields):
    """One question, posted once: the reply as HTTP has it."""
    asked = [submission(f"k{number}", query(f"m{number // 8000}", number % 8000, **fields))]
    body = LogprobsRequest(expert="moody", submissions=tuple(asked)).model_dump_json()
    media = {"content-type": "application/json", "accept": "application/json"}
    request = _Request("POST", "/v1/logprobs", {**gateway.client._headers, **media}, body.encode())
    return await gateway.client._sender.send(request, _MB)


def _ticket(response) -> str:
    return LogprobsOutcomes.model_validate_json(response.body).outcomes[0].ticket.id


async def _until_empty(gateway, timeout_s: float = 60.0) -> None:
    async with asyncio.timeout(timeout_s):
        while await gateway.queue.depth("moody"):
            await asyncio.sleep(0.05)


async def test_R9_a_flood_is_told_when_to_come_back_and_what_was_accepted_is_done(
    make_deployment, moody
) -> None:
    async with moody() as url, make_deployment(moody=url, max_queue=20) as gateway:
        await gateway.client.wait_ready(20)
        responses = await asyncio.gather(*(_post_raw(gateway, n) for n in range(200)))
        assert await gateway.queue.depth("moody") == 20
        accepted = [_ticket(r) for r in responses if r.status == 200]
        async with gateway.dispatching():
            outcomes = await gateway.client.collect_logprobs(accepted, wait_s=30.0)
            [after] = await gateway.ask(submission("after", query("after")))

    assert Counter(r.status for r in responses) == {200: 20, 429: 180}
    assert all("retry-after" in r.headers for r in responses if r.status == 429)
    assert all(outcome.answer is not None for outcome in outcomes)
    assert after.answer is not None


@pytest.mark.gauntlet
async def test_R9_a_minute_of_tenfold_overload_stays_inside_memory_and_deadlines(
    make_deployment, moody
) -> None:
    limit = 200
    async with (
        moody(delay_s=0.1, max_batch=4) as url,
        make_deployment(moody=url, own_process=True, max_queue=limit) as gateway,
        gateway.dispatching(),
    ):
        await gateway.ask(submission("warm", query("well", 8000)))
        process = psutil.Process(gateway.gateway.pid)
        before, most_jobs, accepted, number = process.memory_info().rss, 0, [], 0
        end = time.monotonic() + 60
        while time.monotonic() < end:
            responses = await asyncio.gather(*(_post_raw(gateway, number + n) for n in range(40)))
            number += 40
            accepted += [_ticket(r) for r in responses if r.status == 200]
            assert {r.status for r in responses} <= {200, 429}
            most_jobs = max(most_jobs, await gateway.queue.depth("moody"))
        grown = process.memory_info().rss - before
        await _until_empty(gateway)
        outcomes = await gateway.client.collect_logprobs(accepted, wait_s=30.0)

    assert most_jobs <= limit
    assert grown < 50 * _MB
    late = [o for o in outcomes if o.answer is None]
    assert len(late) <= 0.01 * len(outcomes)


async def test_R10_use_leaves_nothing_behind(make_deployment, moody) -> None:
    async with (
        moody() as url,
        make_deployment(moody=url) as gateway,
        gateway.dispatching(),
    ):
        left: list[dict[str, int]] = []
        for wave in range(3):
            for call in range(5):
                first = 1000 * wave + 20 * call
                asked = (submission(f"k{n}", query("w", n)) for n in range(first, first + 20))
                await gateway.ask(*asked)
            await _until_empty(gateway)
            left.append(_left_behind(gateway))

    # A few connections more or less are no leak; a hundred questions would show as a hundred.
    for name, number in left[0].items():
        assert left[2][name] <= number + 10, name
    assert left[2]["connections in use"] == 0


@pytest.mark.gauntlet
async def test_R10_five_minutes_at_a_steady_rate_leave_nothing_behind(
    make_deployment, moody
) -> None:
    async with (
        moody(max_batch=64) as url,
        make_deployment(moody=url, own_process=True) as gateway,
        gateway.dispatching(),
    ):
        process = psutil.Process(gateway.gateway.pid)
        sizes: list[tuple[int, int]] = []
        number, end = 0, time.monotonic() + 300
        while time.monotonic() < end:
            began = time.monotonic()
            asked = [
                submission(f"k{n}", query(f"m{n // 8000}", n % 8000))
                for n in range(number, number + 150)
            ]
            outcomes = await gateway.ask(*asked, timeout_s=120.0)
            assert all(outcome.answer is not None for outcome in outcomes)
            number += 150
            sizes.append((process.memory_info().rss, process.num_fds()))
            await asyncio.sleep(max(0.0, 0.5 - (time.monotonic() - began)))
        await _until_empty(gateway)

    # The first quarter fills caches that have a limit (64 MB of array_blobs).
    quarter = len(sizes) // 4
    assert max(fds for _, fds in sizes[quarter:]) <= max(fds for _, fds in sizes[:quarter]) + 20
    assert sizes[-1][0] - sizes[quarter][0] < 80 * _MB


async def test_R13_a_wall_clock_that_jumps_moves_neither_leases_nor_deadlines(
    make_deployment, moody, moody_log, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, jump_s = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + jump_s[0])
    async with (
        moody(max_concurrency=2) as url,
        make_deployment(moody=url) as gateway,
        gateway.dispatching(lease_s=2.0),
    ):
        asking = asyncio.create_task(gateway.ask(submission("a", query("gated"))))
        await until(lambda: noted(moody_log) == ["gated"])
        jump_s[0] = 3600.0
        [soon] = await gateway.ask(submission("b", query("hang", timeout_ms=2500)))
        jump_s[0] = -3600.0
        moody_log.with_name("gate").touch()
        [outcome] = await asking
        [after] = await gateway.ask(submission("c", query("well")))

    assert soon.problem.code == "deadline-exceeded"
    assert outcome.answer is not None
    assert after.answer is not None
    assert noted(moody_log).count("gated") == 1


def _left_behind(gateway) -> dict[str, int]:
    return {
        "tasks": len(asyncio.all_tasks()),
        "files": psutil.Process().num_fds(),
        "connections in use": gateway.database.engine.pool.checkedout(),
    }
