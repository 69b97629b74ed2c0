"""Opens the database: SQLite in WAL mode by default, PostgreSQL by URL.

One transaction writes at a time, on either database: the states of tickets, answers and jobs change
together, and a ticket that joins an answer must not overlap the report that finishes it. SQLite
takes its write lock with `BEGIN IMMEDIATE` (a transaction that reads first and then writes fails at
once where another writes, whatever the busy timeout), PostgreSQL an advisory lock. In this process
writers queue at a lock first, because waiting for SQLite's lock is a sleep in a loop.

If the database is unreachable, locked or full, this module alone raises `ServiceUnavailable`:
callers get a 503 and retry. An error in a statement itself is raised unchanged.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import sqlite3
import time
from collections.abc import AsyncGenerator, Generator
from functools import partial
from pathlib import Path
from typing import Any, Final, Self, TypeAlias

from alembic import command
from alembic.config import Config
from sqlalchemy import URL, Dialect, event, make_url, text
from sqlalchemy import Connection as SyncConnection
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from preceptor_clients.contract.errors import ServiceUnavailable
from preceptor_services.kit.private import make_private
from preceptor_services.store.prepared import direct, driver_of
from preceptor_services.store.sqlite_driver import (
    LONGEST_WAIT_S,
    DirectConnection,
    connect,
    copy_log,
)

Connection: TypeAlias = AsyncConnection
"""The connection of a transaction; callers pass it to the queries of the store."""

_log = logging.getLogger("preceptor.database")

_ADVISORY_LOCK: Final = 0x70726563
_CONNECTIONS: Final = 15
"""Connections of one process to PostgreSQL."""
_TRUSTED_S: Final = 5.0
"""A connection that was used within this time is not checked before its next use."""
_USED_AT: Final = "preceptor_used_at"
_RETRY_AFTER_S: Final = 1.0
_PASSING_SQLITE: Final = frozenset(
    {
        *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR),
        *(sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOMEM),
        *(sqlite3.SQLITE_PROTOCOL,),
    }
)
"""Primary result codes of SQLite for a file that is locked, full or unreachable."""
_PASSING_POSTGRES: Final = ("08", "25006", "40", "53", "55P03", "57", "58")
"""Prefixes of SQLSTATE: connection lost, read only, serialisation, no resources, lock not
available, an operator's intervention, system error."""


class Database:
    """Transactions over one database."""

    def __init__(self, engine: AsyncEngine, path: str | None = None) -> None:
        self.engine = engine
        self._path = path
        self._is_sqlite = engine.dialect.name == "sqlite"
        self._writer = asyncio.Lock()
        self._reader = engine
        self._writers: list[AsyncConnection] = []
        self._readers: list[AsyncConnection] = []
        """Open connections to SQLite that no transaction uses."""
        if self._is_sqlite:
            event.listen(engine.sync_engine, "begin", _begin)
        else:
            # Each statement sees what was committed before it, with or without a transaction, so
            # the round trips to begin and end one are saved.
            self._reader = engine.execution_options(isolation_level="AUTOCOMMIT")

    @classmethod
    def open(cls, url: str) -> Self:
        """Opens without connecting (`connect_all`); the folder of a SQLite file is created."""
        parsed = make_url(url)
        if parsed.get_backend_name() != "sqlite":
            return cls(_postgres(parsed))
        if not parsed.database:
            raise ValueError(f"database: {url!r} does not name a file")
        path = Path(parsed.database)
        path.parent.mkdir(parents=True, exist_ok=True)
        make_private(path)
        # Every transaction here is ended explicitly, so no reset is needed.
        engine = create_async_engine(
            parsed, async_creator=partial(connect, str(path)), pool_reset_on_return=None
        )
        return cls(engine, str(path))

    @property
    def may_be_shared(self) -> bool:
        """Whether several gateway processes may use it: PostgreSQL yes, a SQLite file no."""
        return not self._is_sqlite

    async def migrate(self, revision: str = "head") -> None:
        """Migrates the tables to `revision`."""
        async with self._migrating() as conn:
            if not conn.in_transaction():
                # Alembic would end a transaction of its own before this one ends.
                await conn.begin()
            await conn.run_sync(_upgrade, revision)
            if self._is_sqlite:
                await conn.run_sync(_check_references)

    @contextlib.asynccontextmanager
    async def _migrating(self) -> AsyncGenerator[AsyncConnection]:
        """A writing transaction; on SQLite one in which references are not checked.

        A migration makes a table anew and drops the old one, to which other tables refer. SQLite
        keeps this setting within a transaction, so the connection is one of its own.
        """
        if not self._is_sqlite:
            async with self.write() as conn:
                yield conn
            return
        async with self._turn():
            with store_errors():
                alone = [await self._detached()]
            try:
                driver = direct(alone[0])
                assert driver is not None, "the database is SQLite"
                await driver.query("PRAGMA foreign_keys = OFF")
                async with self._kept(alone, "BEGIN IMMEDIATE") as conn:
                    yield conn
            finally:
                await alone[0].close()

    async def connect_all(self) -> None:
        """Opens all connections to PostgreSQL now, so that the first requests need not wait for it.

        If the server refuses some, the others are used, and a use that finds none free tries again.
        """
        if self._is_sqlite:
            return
        opening = (self.engine.connect().start() for _ in range(_CONNECTIONS))
        opened = await asyncio.gather(*opening, return_exceptions=True)
        refused = [error for error in opened if isinstance(error, BaseException)]
        for conn in opened:
            if isinstance(conn, AsyncConnection):
                await conn.close()
        if refused:
            _log.warning(
                "%d of %d connections to the database were refused: %s",
                len(refused),
                _CONNECTIONS,
                refused[0],
            )

    async def ping(self) -> None:
        """Returns if the database answers, else raises `ServiceUnavailable`."""
        async with self.read() as conn:
            await conn.execute(text("SELECT 1"))

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncGenerator[AsyncConnection]:
        """A connection for reading. On SQLite all reads in the block see one snapshot."""
        if self._is_sqlite:
            async with self._kept(self._readers, "BEGIN") as conn:
                yield conn
            return
        with store_errors():
            async with self._reader.connect() as conn, conn.begin():
                yield conn

    @contextlib.asynccontextmanager
    async def write_locked(self) -> AsyncGenerator[AsyncConnection]:
        """One writing transaction that locks only the rows that it writes.

        On PostgreSQL several run in parallel. People's corrections are written this way; those that
        add results for trainers hold a lock from then to the commit (`corrections/results.py`).
        """
        if self._is_sqlite:
            async with self.write() as conn:
                yield conn
        else:
            with store_errors():
                async with self.engine.connect() as conn, conn.begin():
                    yield conn

    @contextlib.asynccontextmanager
    async def write(self) -> AsyncGenerator[AsyncConnection]:
        """One writing transaction: committed at the end, rolled back on an exception."""
        async with self._turn():
            if self._is_sqlite:
                async with self._kept(self._writers, "BEGIN IMMEDIATE") as conn:
                    yield conn
                return
            with store_errors():
                async with self.engine.connect() as conn, conn.begin():
                    lock = text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})")
                    await conn.execute(lock)
                    yield conn

    @contextlib.asynccontextmanager
    async def _kept(
        self, free: list[AsyncConnection], begin: str
    ) -> AsyncGenerator[AsyncConnection]:
        """A transaction on one of the `free` connections, or on a new one.

        SQLAlchemy's pool and its transactions cost more than a short transaction itself, so
        connections are kept and the driver is told to begin and to end. SQLAlchemy takes part in
        the transaction as soon as one of its own statements runs.
        """
        with store_errors():
            conn = free.pop() if free else await self._detached()
            driver = direct(conn)
            assert driver is not None, "the database is SQLite"
            try:
                await driver.query(begin)
                try:
                    yield conn
                    await (conn if conn.in_transaction() else driver).commit()
                except BaseException:
                    await _roll_back(conn, driver)
                    raise
            finally:
                if driver.in_transaction:
                    # It could not be rolled back, so it cannot be used again.
                    await conn.close()
                else:
                    free.append(conn)

    async def _detached(self) -> AsyncConnection:
        """A new connection that the pool does not wait for."""
        conn = await self.engine.connect()
        assert conn.sync_connection is not None, "it is open"
        conn.sync_connection.detach()
        return conn

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncGenerator[None]:
        """This process's turn to write; `ServiceUnavailable` if it takes longer than the limit."""
        try:
            async with asyncio.timeout(LONGEST_WAIT_S):
                await self._writer.acquire()
        except TimeoutError:
            raise ServiceUnavailable(
                f"the database was locked by another writer for {LONGEST_WAIT_S:g} s",
                field="database",
                retry_after_s=_RETRY_AFTER_S,
            ) from None
        try:
            yield
        finally:
            self._writer.release()

    async def copy_log(self) -> None:
        """Copies SQLite's write-ahead log into its file, off the event loop; call it regularly."""
        if self._path is not None:
            await asyncio.to_thread(copy_log, self._path)

    async def aclose(self) -> None:
        for conn in (*self._writers, *self._readers):
            await conn.close()
        self._writers.clear()
        self._readers.clear()
        await self.engine.dispose()


async def _roll_back(conn: AsyncConnection, driver: DirectConnection) -> None:
    if conn.in_transaction():
        await conn.rollback()
    if driver.in_transaction:
        await driver.rollback()


@contextlib.contextmanager
def store_errors() -> Generator[None]:
    """Turns temporary failures of the database into `ServiceUnavailable`."""
    try:
        yield
    except (DBAPIError, sqlite3.Error, PoolTimeout, OSError) as error:
        if not _will_pass(error):
            raise
        raise _unavailable(error) from error
    except Exception as error:
        # While connecting, SQLAlchemy does not wrap the errors of asyncpg.
        if not _sqlstate(error).startswith(_PASSING_POSTGRES):
            raise
        raise _unavailable(error) from error


def _unavailable(error: Exception) -> ServiceUnavailable:
    cause = error.orig if isinstance(error, DBAPIError) else error
    _log.warning("the database is unavailable: %s", cause)
    # SQLite's own words name no path. Other messages may name hosts, so they go to the log only.
    reason = f": {cause}" if isinstance(cause, sqlite3.Error) else ""
    return ServiceUnavailable(
        f"the database is unavailable at the moment{reason}; see the gateway's log",
        field="database",
        retry_after_s=_RETRY_AFTER_S,
    )


def _will_pass(error: DBAPIError | sqlite3.Error | PoolTimeout | OSError) -> bool:
    if isinstance(error, sqlite3.Error):
        return _passing_in_sqlite(error)
    if not isinstance(error, DBAPIError):
        return True
    if error.connection_invalidated:
        return True
    if isinstance(error.orig, sqlite3.Error):
        return _passing_in_sqlite(error.orig)
    return _sqlstate(error.orig).startswith(_PASSING_POSTGRES)


def _passing_in_sqlite(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)
    return code & 0xFF in _PASSING_SQLITE


def _sqlstate(error: BaseException | None) -> str:
    return str(getattr(error, "sqlstate", None) or "-")


def _postgres(url: URL) -> AsyncEngine:
    # All connections stay open, since opening one costs tens of milliseconds. The last used one is
    # used next, because its statements are prepared and it is probably still alive.
    engine = create_async_engine(url, pool_size=_CONNECTIONS, max_overflow=0, pool_use_lifo=True)
    event.listen(engine.sync_engine, "checkin", _note_use)
    event.listen(engine.sync_engine, "checkout", partial(_ping_after_idling, engine.dialect))
    return engine


def _note_use(_: Any, record: ConnectionPoolEntry) -> None:
    record.info[_USED_AT] = time.monotonic()


def _ping_after_idling(
    dialect: Dialect, connection: DBAPIConnection, record: ConnectionPoolEntry, _: Any
) -> None:
    """Pings only idle connections; before each use it would cost every transaction a round trip."""
    if time.monotonic() - record.info.get(_USED_AT, math.inf) < _TRUSTED_S:
        return
    try:
        dialect.do_ping(connection)
    except dialect.loaded_dbapi.Error as error:
        raise DisconnectionError("the server has closed this connection") from error


def alembic_config(conn: SyncConnection) -> Config:
    """Alembic's configuration over an open connection."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = conn
    return config


def _upgrade(conn: SyncConnection, revision: str) -> None:
    command.upgrade(alembic_config(conn), revision)


def _check_references(conn: SyncConnection) -> None:
    lost = conn.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
    if lost:
        raise ValueError(f"database: {len(lost)} rows refer to rows that are not there: {lost[:3]}")


def _begin(conn: SyncConnection) -> None:
    # SQLAlchemy joins a transaction that the driver has begun.
    driver = driver_of(conn)
    if driver is None or not driver.in_transaction:
        conn.exec_driver_sql("BEGIN")
