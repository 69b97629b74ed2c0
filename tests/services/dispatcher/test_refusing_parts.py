"""A store or a broker that answers with errors for a while costs time, and no question."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from dispatch_parts import noted, query, submission, until

from preceptor_services.jobs.embedded_broker import running_broker
from preceptor_services.jobs.streams import JobStreams
from preceptor_services.store import database as store_database
from preceptor_services.store import sqlite_driver

_FAULT_S = 1.5
_FAULTS = {
    "out of memory": (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
    "no replicas": (
        ("CONFIG", "SET", "min-replicas-to-write", "1"),
        ("CONFIG", "SET", "min-replicas-to-write", "0"),
    ),
    "read only": (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (store_database, sqlite_driver):
        monkeypatch.setattr(module, "LONGEST_WAIT_S", 0.2)


@contextlib.asynccontextmanager
async def _refusing_broker(queue: JobStreams, fault: str) -> AsyncIterator[None]:
    begin, end = _FAULTS[fault]
    await queue._redis.execute_command(*begin)
    yield
    await queue._redis.execute_command(*end)


@contextlib.contextmanager
def _locked(path: Path) -> Any:
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        holder.close()


async def _ask_eight(deployment: Any) -> list[Any]:
    outcomes = []
    for number in range(8):
        outcomes += await deployment.ask(submission(f"k{number}", query("calm", number)))
    return outcomes


@pytest.mark.parametrize("fault", _FAULTS)
async def test_eight_steps_survive_a_broker_that_refuses(
    make_deployment: Callable[..., Any], moody: Any, broker_folder: Path, fault: str
) -> None:
    with running_broker(broker_folder) as broker:
        async with (
            moody() as url,
            make_deployment(broker_url=broker.url, moody=url) as deployment,
            deployment.dispatching(lease_s=2.0),
        ):
            await deployment.ask(submission("first", query("calm", 99)))
            async with _refusing_broker(deployment.queue, fault):
                asking = asyncio.create_task(_ask_eight(deployment))
                await asyncio.sleep(_FAULT_S)
                assert not asking.done()
            outcomes = await asking

    assert [o.ticket.state for o in outcomes] == ["done"] * 8


async def test_eight_steps_survive_a_locked_database(
    make_deployment: Callable[..., Any], moody: Any, tmp_path: Path
) -> None:
    async with (
        moody() as url,
        make_deployment(moody=url) as deployment,
        deployment.dispatching(),
    ):
        await deployment.ask(submission("first", query("calm", 99)))
        with _locked(tmp_path / "preceptor.db"):
            asking = asyncio.create_task(_ask_eight(deployment))
            await asyncio.sleep(_FAULT_S)
            assert not asking.done()
        outcomes = await asking

    assert [o.ticket.state for o in outcomes] == ["done"] * 8


async def test_an_answer_reported_to_a_locked_database_is_reported_again_not_asked_again(
    make_deployment: Callable[..., Any],
    moody: Any,
    moody_log: Path,
    tmp_path: Path,
) -> None:
    async with (
        moody(max_concurrency=2) as url,
        make_deployment(moody=url) as deployment,
        deployment.dispatching(),
    ):
        asking = asyncio.create_task(deployment.ask(submission("a", query("gated"))))
        await until(lambda: noted(moody_log) == ["gated"])
        with _locked(tmp_path / "preceptor.db"):
            moody_log.with_name("gate").touch()
            await asyncio.sleep(_FAULT_S)
        [outcome] = await asking

    assert (outcome.ticket.state, outcome.problem) == ("done", None)
    assert noted(moody_log) == ["gated"]


async def test_an_error_of_the_gateway_itself_is_not_the_experts_refusal(
    make_deployment: Callable[..., Any], moody: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from preceptor_services.questions.report import JobReports

    reported, failures = JobReports.report, [RuntimeError("a fault of ours")]

    async def fails_once(self: JobReports, request: Any) -> Any:
        if failures:
            raise failures.pop()
        return await reported(self, request)

    monkeypatch.setattr(JobReports, "report", fails_once)
    async with (
        moody() as url,
        make_deployment(moody=url) as deployment,
        deployment.dispatching(lease_s=1.0),
    ):
        [outcome] = await deployment.ask(submission("a", query("calm")))

    assert outcome.ticket.state == "done"
