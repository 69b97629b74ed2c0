"""A database that refuses for seconds: whoever asks is told to come again, and nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from dispatch_parts import noted, query, submission, until
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from preceptor_clients.contract.schemas import LogprobsOutcomes

_AWAY_S = 4.0
_LOCKED_S = 22.0
_END_ALL = text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


async def _end_back_ends(url: str, for_s: float, until: Callable[[], bool]) -> None:
    """Ends every connection of others to the database, again and again; in the end, seldom.

    At most a minute; on a slow machine it lasts longer than `for_s`, until both was seen.
    """
    # Within one transaction PostgreSQL would list the same connections at every look.
    engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
    async with engine.connect() as conn:
        clock = asyncio.get_running_loop().time
        began, pause_s = clock(), 0.02
        while clock() < began + for_s or (clock() < began + 60.0 and not until()):
            await conn.execute(_END_ALL)
            await asyncio.sleep(pause_s)
            pause_s = 0.02 if clock() < began + for_s else min(1.0, 1.5 * pause_s)
    await engine.dispose()


class Caller:
    """A client without retries, which notes what it was told."""

    def __init__(self, deployment: Any) -> None:
        url = f"http://127.0.0.1:{deployment.settings.gateway.port}"
        self._key = deployment.settings.key_for("trainer").read_text().strip()
        self._client = httpx.AsyncClient(base_url=url, timeout=60, trust_env=False)
        self.acknowledged: dict[str, str] = {}
        self.refused: list[httpx.Response] = []

    async def ask(self, number: int) -> None:
        asked = submission(f"k{number}", query("calm", number))
        body = {
            "expert": "moody",
            "submissions": [json.loads(asked.model_dump_json(exclude_none=True))],
        }
        headers = {"authorization": f"Bearer {self._key}"}
        response = await self._client.post("/v1/logprobs", json=body, headers=headers)
        if response.status_code == 200:
            [outcome] = LogprobsOutcomes.model_validate_json(response.content).outcomes
            self.acknowledged[asked.idempotency_key] = outcome.ticket.id
        else:
            self.refused.append(response)

    async def ask_until(self, done: asyncio.Task[None]) -> None:
        number = 0
        while not done.done():
            await self.ask(number)
            number += 1
        await done
        await self._client.aclose()


async def _statuses(deployment: Any) -> set[str]:
    """Every status that the gateway gave to anybody."""
    url = f"http://127.0.0.1:{deployment.settings.gateway.port}/metrics"
    key = deployment.settings.key_for("admin").read_text().strip()
    async with httpx.AsyncClient(trust_env=False) as client:
        told = await client.get(url, headers={"authorization": f"Bearer {key}"})
    assert told.status_code == 200
    return set(re.findall(r'preceptor_requests_total\{[^}]*status="(\d+)"', told.text))


async def test_back_ends_ended_for_four_seconds_lose_nothing_acknowledged_and_are_only_503(
    make_deployment: Callable[..., Any], moody: Any, postgres: Callable[[], str]
) -> None:
    url = postgres()
    async with (
        moody() as expert,
        make_deployment(database_url=url, moody=expert) as deployment,
        deployment.dispatching(lease_s=2.0),
    ):
        await deployment.ask(submission("first", query("calm", 8999)))
        caller = Caller(deployment)
        ending = _end_back_ends(url, _AWAY_S, lambda: bool(caller.acknowledged and caller.refused))
        await caller.ask_until(asyncio.create_task(ending))
        outcomes = await deployment.client.collect_logprobs(
            list(caller.acknowledged.values()), wait_s=30.0
        )
        statuses = await _statuses(deployment)

    assert [outcome.ticket.state for outcome in outcomes] == ["done"] * len(caller.acknowledged)
    assert caller.acknowledged
    assert caller.refused
    assert {response.status_code for response in caller.refused} == {503}
    assert all(int(response.headers["retry-after"]) >= 1 for response in caller.refused)
    assert "503" in statuses
    assert "500" not in statuses


@contextlib.contextmanager
def _locked(path: Path) -> Any:
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        holder.close()


@pytest.mark.gauntlet
async def test_a_database_locked_for_22_seconds_fails_no_acknowledged_question(
    make_deployment: Callable[..., Any],
    moody: Any,
    moody_log: Path,
    tmp_path: Path,
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/locked.db"
    async with (
        moody(max_concurrency=2) as expert,
        make_deployment(database_url=url, moody=expert) as deployment,
        deployment.dispatching(),
    ):
        held = asyncio.create_task(
            deployment.ask(submission("held", query("gated")), timeout_s=120.0)
        )
        await until(lambda: noted(moody_log) == ["gated"])
        with _locked(tmp_path / "locked.db"):
            moody_log.with_name("gate").touch()
            later = [
                asyncio.create_task(
                    deployment.ask(submission(f"k{n}", query("calm", n)), timeout_s=120.0)
                )
                for n in range(8)
            ]
            await asyncio.sleep(_LOCKED_S)
            assert not any(asking.done() for asking in (held, *later))
        outcomes = [outcome for asking in (held, *later) for outcome in await asking]
        statuses = await _statuses(deployment)

    assert [(o.ticket.state, o.problem) for o in outcomes] == [("done", None)] * 9
    assert "503" in statuses
    assert "500" not in statuses
