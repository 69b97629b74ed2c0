"""Transactions: one writer at a time, none lost, nothing half done, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import AsyncAdaptedQueuePool, func, select, text, update

from preceptor_services.store import database as store_database
from preceptor_services.store import services
from preceptor_services.store.database import Database
from preceptor_services.store.provenance import runs
from preceptor_services.store.questions import tickets
from preceptor_services.store.questions.tickets import Settled
from preceptor_services.store.tables.provenance import Run
from preceptor_services.store.tables.questions import Arrival


def _run(name: str, count: int = 0) -> dict[str, Any]:
    return {"name": name, "document": {"count": count}, "created_at": 0.0}


async def test_writers_that_read_first_do_not_lose_updates(database: Database) -> None:
    async with database.write() as conn:
        await runs.add_run(conn, _run("r"))

    async def count_one_more() -> None:
        async with database.write() as conn:
            document = await runs.find_run(conn, "r")
            assert document is not None
            await asyncio.sleep(0)
            more = {"count": document["count"] + 1}
            await conn.execute(update(Run).where(Run.name == "r").values(document=more))

    await asyncio.gather(*(count_one_more() for _ in range(40)))
    async with database.read() as conn:
        assert await runs.find_run(conn, "r") == {"count": 40}


async def test_two_processes_worth_of_writers_take_turns(
    database: Database, database_url: str
) -> None:
    other = Database.open(database_url)

    async def write(through: Database, name: str) -> None:
        async with through.write() as conn:
            await conn.execute(select(func.count()).select_from(Run))
            await runs.add_run(conn, _run(name))

    await asyncio.gather(
        *(
            write(through, f"{n}-{i}")
            for i in range(20)
            for n, through in ((0, database), (1, other))
        )
    )
    await other.aclose()

    async with database.read() as conn:
        assert (await conn.execute(select(func.count()).select_from(Run))).scalar_one() == 40


async def test_a_failed_transaction_leaves_nothing(database: Database) -> None:
    with pytest.raises(RuntimeError):  # noqa: PT012  the block is what is tested
        async with database.write() as conn:
            await runs.add_run(conn, _run("r"))
            raise RuntimeError("half way")

    async with database.read() as conn:
        assert await runs.find_run(conn, "r") is None


async def test_known_rows_are_left_as_they_are(database: Database) -> None:
    async with database.write() as conn:
        await services.add_blobs(conn, {"a": 1}, now=1.0)
        await services.add_blobs(conn, {"a": 2, "b": 3}, now=2.0)

    async with database.read() as conn:
        assert await services.known_blobs(conn, ["a", "b", "c"]) == {"a", "b"}


async def test_a_reference_to_nothing_is_refused(database: Database) -> None:
    with pytest.raises(Exception, match=r"(?i)foreign key"):
        async with database.write() as conn:
            await tickets.add_arrivals(conn, [Settled("k-none", "a", "r")])

    async with database.read() as conn:
        assert (await conn.execute(select(func.count()).select_from(Arrival))).scalar_one() == 0


async def test_a_connection_that_died_while_idle_is_replaced(
    postgres: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database.open(postgres())
    monkeypatch.setattr(store_database, "_TRUSTED_S", 0.0)
    async with database.read() as conn:
        pid = (await conn.execute(select(func.pg_backend_pid()))).scalar_one()
    killer = Database.open(str(database.engine.url))
    async with killer.read() as conn:
        await conn.execute(select(func.pg_terminate_backend(pid)))

    async with database.read() as conn:
        other = (await conn.execute(select(func.pg_backend_pid()))).scalar_one()

    assert other != pid
    await killer.aclose()
    await database.aclose()


async def test_every_connection_can_be_opened_before_the_first_rush(
    postgres: Callable[[], str],
) -> None:
    database = Database.open(postgres())

    await database.connect_all()

    pool = database.engine.pool
    assert isinstance(pool, AsyncAdaptedQueuePool)
    assert pool.checkedin() == pool.size() > 1
    await database.aclose()


async def test_a_server_that_refuses_some_connections_is_used_with_the_others(
    postgres: Callable[[], str], caplog: pytest.LogCaptureFixture
) -> None:
    owner = Database.open(url := postgres())
    async with owner.write() as conn:
        await conn.execute(text("DROP ROLE IF EXISTS guest"))
        await conn.execute(text("CREATE ROLE guest LOGIN CONNECTION LIMIT 3"))
    database = Database.open(url.replace("postgres@", "guest@"))

    await database.connect_all()

    assert "connections to the database were refused" in caplog.text
    async with database.read() as conn:
        assert (await conn.execute(select(1))).scalar_one() == 1
    await database.aclose()
    await owner.aclose()
