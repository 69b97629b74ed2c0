"""SQLite connections that make one trip to their thread per statement.

aiosqlite runs a connection in a thread of its own and SQLAlchemy asks it to make a cursor, execute,
fetch and close: four trips for one statement, each of them two thread switches, which on a busy
machine cost far more than SQLite itself. Here a statement and its rows are one trip.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Self

import aiosqlite


class OneTripCursor:
    """As much of a cursor as SQLAlchemy's adapter uses; rows are read with their statement."""

    arraysize = 1

    def __init__(self, connection: OneTripConnection) -> None:
        self._connection = connection
        self._rows: list[Any] = []
        self.description: Any = None
        self.rowcount = -1
        self.lastrowid: int | None = None

    async def __aenter__(self) -> Self:
        return self

    async def execute(self, sql: str, parameters: Iterable[Any] = ()) -> Self:
        """Executes one statement and reads all of its rows."""
        await self._connection.trip(self._run, sqlite3.Connection.execute, sql, parameters)
        return self

    async def executemany(self, sql: str, parameters: Sequence[Iterable[Any]]) -> Self:
        """Executes one statement for each set of parameters."""
        await self._connection.trip(self._run, sqlite3.Connection.executemany, sql, parameters)
        return self

    def _run(self, connection: sqlite3.Connection, run: Any, sql: str, parameters: Any) -> None:
        cursor: sqlite3.Cursor = run(connection, sql, parameters)
        self.description = cursor.description
        self._rows = cursor.fetchall() if cursor.description else []
        # A statement with RETURNING counts its rows only once they are read.
        self.rowcount, self.lastrowid = cursor.rowcount, cursor.lastrowid
        cursor.close()

    async def fetchall(self) -> list[Any]:
        """The rows."""
        rows, self._rows = self._rows, []
        return rows

    async def close(self) -> None:
        """Forgets the rows."""
        self._rows = []


class OneTripConnection(aiosqlite.Connection):
    """An aiosqlite connection with such cursors."""

    def cursor(self) -> OneTripCursor:  # pyright: ignore[reportIncompatibleMethodOverride]  the adapter takes it as it is
        """A new cursor; no trip."""
        return OneTripCursor(self)

    async def trip(self, run: Any, *args: Any) -> None:
        """Calls `run(connection, *args)` in the connection's thread."""
        await super()._execute(run, self._conn, *args)  # pyright: ignore[reportUnknownMemberType]  untyped there


async def connect(path: str) -> OneTripConnection:
    """Opens the file at `path`."""
    connection = OneTripConnection(lambda: sqlite3.connect(path), iter_chunk_size=64)
    # The process must not wait for it where somebody forgot to close the database.
    connection._thread.daemon = True  # pyright: ignore[reportPrivateUsage]  as SQLAlchemy does
    await connection
    return connection
