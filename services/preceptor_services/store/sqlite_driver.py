"""SQLite connections on the event loop's own thread.

aiosqlite gives each connection a thread and makes four trips to it for one statement. A statement
of ours takes some ten microseconds; a trip, two switches of threads and a hand-over of the
interpreter, takes ten times that, and milliseconds where the machine is busy: about forty trips
were nine tenths of what a question cost. So statements run at once, in the thread that asks.

What could hold the loop up is kept off it. A locked database is tried again later instead of being
waited for inside SQLite, and the pages of the log are copied to the file by `copy_log` in a thread
(SQLite itself does so, at a commit, only once the log has become very long).

The class looks to SQLAlchemy like a connection of aiosqlite, whose dialect stays in use.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Self

LONGEST_WAIT_S: Final = 10.0
"""For a lock that another process holds."""
_PAUSE_S: Final = 0.002
_LOG_PAGES: Final = 8192
"""32 MB; with `copy_log` running now and then the log stays far shorter."""
_PRAGMAS: Final = (
    "PRAGMA busy_timeout = 0",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = NORMAL",
    "PRAGMA foreign_keys = ON",
    f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}",
)


class DirectCursor:
    """As much of a cursor as SQLAlchemy's adapter uses; rows are read with their statement."""

    arraysize = 1

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._rows: list[Any] = []
        self.description: Any = None
        self.rowcount = -1
        self.lastrowid: int | None = None

    async def __aenter__(self) -> Self:
        return self

    async def execute(self, sql: str, parameters: Iterable[Any] = ()) -> Self:
        """Executes one statement and reads all of its rows."""
        self._keep(await _unlocked(lambda: self._connection.execute(sql, tuple(parameters))))
        return self

    async def executemany(self, sql: str, parameters: Sequence[Iterable[Any]]) -> Self:
        """Executes one statement for each set of parameters."""
        rows = [tuple(row) for row in parameters]
        self._keep(await _unlocked(lambda: self._connection.executemany(sql, rows)))
        return self

    def _keep(self, cursor: sqlite3.Cursor) -> None:
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


class DirectConnection:
    """As much of a connection as SQLAlchemy's adapter uses."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection: sqlite3.Connection | None = connection

    def cursor(self) -> DirectCursor:
        """A new cursor."""
        return DirectCursor(self._open())

    async def commit(self) -> None:
        """Ends the transaction."""
        self._open().commit()

    async def rollback(self) -> None:
        """Gives the transaction up."""
        self._open().rollback()

    async def create_function(self, *args: Any, **options: Any) -> None:
        """SQLAlchemy adds `regexp`."""
        self._open().create_function(*args, **options)

    async def close(self) -> None:
        """Closes it; a second time does nothing."""
        self.stop()

    def stop(self) -> None:
        """The same for who cannot await."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            raise ValueError("connection closed")  # The adapter knows this text.
        return self._connection


async def connect(path: str) -> DirectConnection:
    """Opens the file at `path`."""
    # No isolation level: transactions are begun by us, because the driver would begin them late,
    # and never as IMMEDIATE.
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in _PRAGMAS:
        await _unlocked(lambda sql=pragma: connection.execute(sql))
    return DirectConnection(connection)


async def _unlocked(run: Callable[[], sqlite3.Cursor]) -> sqlite3.Cursor:
    """What `run` gives, once no other process holds the lock that it needs."""
    end = time.monotonic() + LONGEST_WAIT_S
    while True:
        try:
            return run()
        except sqlite3.OperationalError as error:
            locked = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not locked or time.monotonic() > end:
                raise
        await asyncio.sleep(_PAUSE_S)


def copy_log(path: str) -> None:
    """Copies finished pages of the write-ahead log into the file; nobody waits for it."""
    connection = sqlite3.connect(path)
    try:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
    finally:
        connection.close()
