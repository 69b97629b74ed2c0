"""SQLite connections on the event loop's own thread.

aiosqlite gives each connection a thread and makes four trips to it for one statement. A statement
of the store takes about ten microseconds; a trip (two thread switches and a hand-over of the GIL)
takes ten times that, and milliseconds on a busy machine: about forty trips were nine tenths of the
cost of a question. So statements run directly, in the calling thread.

Operations that could block the loop are kept off it. A locked database is tried again later instead
of being waited for inside SQLite, and `copy_log` copies the log's pages to the file in a thread
(SQLite itself does so, at a commit, only once the log has become very long).

The class has the interface of an aiosqlite connection, because SQLAlchemy's dialect of it is used.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Self

LONGEST_WAIT_S: Final = 10.0
"""Longest wait for a lock that another process holds."""
_PAUSE_S: Final = 0.002
_LOG_PAGES: Final = 8192
"""32 MB; if `copy_log` runs regularly, the log stays far shorter."""
_STATEMENTS: Final = 512
"""Statements that a connection keeps compiled."""
_NOTHING: Final[Mapping[str, Any]] = {}
_PRAGMAS: Final = (
    "PRAGMA busy_timeout = 0",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = NORMAL",
    "PRAGMA foreign_keys = ON",
    f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}",
)


class DirectCursor:
    """The cursor methods that SQLAlchemy's adapter uses; rows are read with their statement."""

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
        rows, self._rows = self._rows, []
        return rows

    async def close(self) -> None:
        self._rows = []


class DirectConnection:
    """The connection methods that SQLAlchemy's adapter uses."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection: sqlite3.Connection | None = connection

    def cursor(self) -> DirectCursor:
        return DirectCursor(self._open())

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction was begun and not ended."""
        return self._open().in_transaction

    async def query(self, sql: str, parameters: Mapping[str, Any] = _NOTHING) -> list[Any]:
        """Executes one statement and returns its rows; for callers other than SQLAlchemy."""
        connection = self._open()
        return (await _unlocked(lambda: connection.execute(sql, parameters))).fetchall()

    async def query_many(self, sql: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Executes one statement for each set of parameters."""
        connection = self._open()
        await _unlocked(lambda: connection.executemany(sql, rows))

    async def commit(self) -> None:
        self._open().commit()

    async def rollback(self) -> None:
        """Rolls the transaction back."""
        self._open().rollback()

    async def create_function(self, *args: Any, **options: Any) -> None:
        """Called by SQLAlchemy to add `regexp`."""
        self._open().create_function(*args, **options)

    async def close(self) -> None:
        """Closes the connection; a second call does nothing."""
        self.stop()

    def stop(self) -> None:
        """Closes the connection, for callers that cannot await."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            raise ValueError("connection closed")  # The adapter compares this text.
        return self._connection


async def connect(path: str) -> DirectConnection:
    """Opens the file at `path`."""
    # No isolation level: the store begins transactions itself, because the driver would begin
    # them late, and never as IMMEDIATE.
    connection = sqlite3.connect(path, isolation_level=None, cached_statements=_STATEMENTS)
    for pragma in _PRAGMAS:
        await _unlocked(lambda sql=pragma: connection.execute(sql))
    return DirectConnection(connection)


async def _unlocked(run: Callable[[], sqlite3.Cursor]) -> sqlite3.Cursor:
    """The result of `run`, which is repeated while another process holds the lock."""
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
    """Copies finished pages of the write-ahead log into the file; others need not wait."""
    connection = sqlite3.connect(path)
    try:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
    finally:
        connection.close()
