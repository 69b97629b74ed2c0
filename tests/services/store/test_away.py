"""A database that is locked, full or gone for a while is a 503 with `Retry-After`, never a 500."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import IntegrityError

from preceptor_clients.contract.errors import ServiceUnavailable
from preceptor_services.store import database as store_database
from preceptor_services.store import sqlite_driver
from preceptor_services.store.database import Database
from preceptor_services.store.provenance import runs

from ..world import World

_HOLD = """
import sqlite3, sys
conn = sqlite3.connect(sys.argv[1], isolation_level=None)
conn.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def locked_by_another(path: Path) -> Iterator[None]:
    """Another process holds the write lock of the SQLite file."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        try:
            yield
        finally:
            holder.communicate(b"")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (store_database, sqlite_driver):
        monkeypatch.setattr(module, "LONGEST_WAIT_S", 0.2)


def _run(name: str) -> dict[str, Any]:
    return {"name": name, "document": {}, "created_at": 0.0}


@pytest.mark.usefixtures("impatient")
async def test_a_locked_file_is_a_503_with_retry_after_for_everybody_in_line(world: World) -> None:
    key = world.settings.keys["trainer"].file.read_text()
    transport = httpx.ASGITransport(app=world.app, raise_app_exceptions=False)
    body = {"run": "r", "config": {}, "seed": 0, "versions": {}}

    async with httpx.AsyncClient(transport=transport, base_url="http://g") as client:
        client.headers["authorization"] = f"Bearer {key}"
        with locked_by_another(world.folder / "gateway.db"):
            calls = [client.post("/v1/runs", json=body | {"run": f"r{n}"}) for n in range(5)]
            refused = await asyncio.gather(*calls)
        after = await client.post("/v1/runs", json=body)

    assert {r.status_code for r in refused} == {503}
    assert all(int(r.headers["retry-after"]) >= 1 for r in refused)
    assert after.status_code == 200


async def test_a_full_disk_is_unavailable_and_what_comes_later_is_written(tmp_path: Path) -> None:
    database = Database.open(f"sqlite+aiosqlite:///{tmp_path}/full.db")
    await database.migrate()
    async with database.write() as conn:
        pages = (await conn.execute(text("PRAGMA page_count"))).scalar_one()
        await conn.execute(text(f"PRAGMA max_page_count = {pages}"))

    with pytest.raises(ServiceUnavailable, match="disk is full"):  # noqa: PT012  the block is tested
        async with database.write() as conn:
            for n in range(2000):
                await runs.add_run(conn, _run(f"r{n}") | {"document": {"x": "y" * 1000}})
    async with database.write() as conn:
        await conn.execute(text("PRAGMA max_page_count = 1000000"))
        await runs.add_run(conn, _run("r"))

    async with database.read() as conn:
        assert await runs.find_run(conn, "r0") is None
    await database.aclose()


async def test_ended_back_ends_are_unavailable_once_and_replaced(
    postgres: Callable[[], str],
) -> None:
    url = postgres()
    database, killer = Database.open(url), Database.open(url)
    await database.migrate()

    with pytest.raises(ServiceUnavailable, match="database"):  # noqa: PT012  the block is tested
        async with database.write() as conn:
            pid = (await conn.execute(select(func.pg_backend_pid()))).scalar_one()
            async with killer.read() as other:
                await other.execute(select(func.pg_terminate_backend(pid)))
            await runs.add_run(conn, _run("r"))
    async with database.write() as conn:
        await runs.add_run(conn, _run("r"))

    async with database.read() as conn:
        assert await runs.find_run(conn, "r") == {}
    await killer.aclose()
    await database.aclose()


async def test_a_server_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    database = Database.open(f"postgresql+asyncpg://postgres@/x?host={tmp_path}")

    with pytest.raises(ServiceUnavailable):
        await database.ping()


async def test_a_server_that_only_reads_is_unavailable(postgres: Callable[[], str]) -> None:
    database = Database.open(postgres())
    await database.migrate()

    with pytest.raises(ServiceUnavailable):  # noqa: PT012  the block is tested
        async with database.write() as conn:
            await conn.execute(text("SET TRANSACTION READ ONLY"))
            await runs.add_run(conn, _run("r"))
    await database.aclose()


async def test_what_is_wrong_with_a_statement_stays_what_it_is(database: Database) -> None:
    async with database.write() as conn:
        await runs.add_run(conn, _run("r"))

    with pytest.raises(IntegrityError):
        async with database.write() as conn:
            await conn.execute(text("INSERT INTO runs (name) VALUES (NULL)"))


def test_every_passing_code_is_one_of_sqlite() -> None:
    names = {name for name in dir(sqlite3) if name.startswith("SQLITE_")}

    known = {getattr(sqlite3, name) for name in names if isinstance(getattr(sqlite3, name), int)}
    assert known >= store_database._PASSING_SQLITE
    assert sqlite3.SQLITE_CORRUPT not in store_database._PASSING_SQLITE
