"""A real broker for the tests of the services: one process a session, emptied for each test."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import make_url

from preceptor_services.jobs.embedded_broker import Broker, running_broker
from preceptor_services.jobs.streams import JobStreams
from preceptor_services.store import database as store_database
from preceptor_services.store.database import Database

from .databases import migrate, sqlite_with_tables
from .postgres_server import postgres_server
from .world import gateway_options, sqlite_url, world

__all__ = ["gateway_options", "sqlite_url", "world"]


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One broker for all tests that do not break it."""
    with running_broker(tmp_path_factory.mktemp("broker")) as running:
        yield running


@pytest.fixture
async def queue(broker: Broker) -> AsyncIterator[JobStreams]:
    """An empty queue on the shared broker."""
    queue = JobStreams.connect(broker.url, max_length=1000)
    await queue._redis.flushall()
    yield queue
    await queue.aclose()


@pytest.fixture
def broker_folder(tmp_path: Path) -> Path:
    """For tests that kill their own broker."""
    return tmp_path / "broker"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Callable[..., str]]:
    """Makes URLs of databases on a real PostgreSQL, empty ones or copies of another."""
    with postgres_server() as (server, folder), pytest.MonkeyPatch.context() as patch:
        # Each is a process of the server, and a test needs few.
        patch.setattr(store_database, "_CONNECTIONS", 4)

        def new_database(template: str = "template1") -> str:
            name = f"test_{uuid.uuid4().hex}"
            server.psql(f"CREATE DATABASE {name} TEMPLATE {template};")
            return f"postgresql+asyncpg://postgres@/{name}?host={folder}"

        yield new_database


@pytest.fixture(scope="session")
def postgres_with_tables(postgres: Callable[..., str]) -> Callable[[], str]:
    """Makes URLs of migrated databases on a real PostgreSQL."""
    first = postgres()
    migrate(first)
    return partial(postgres, make_url(first).database)


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A migrated database of each kind."""
    if request.param == "sqlite":
        return sqlite_with_tables(tmp_path / "store.db")
    return request.getfixturevalue("postgres_with_tables")()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A migrated database of each kind, open."""
    database = Database.open(database_url)
    yield database
    await database.aclose()
