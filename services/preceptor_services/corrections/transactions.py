"""Short writing transactions of the queue.

On SQLite one transaction writes at a time and takes its lock at the start (`BEGIN IMMEDIATE`). On
PostgreSQL they go side by side, each on rows that it locks; only those that tell trainers something
take turns, from the telling to the commit, so that the cursor of results is reliable.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from sqlalchemy.ext.asyncio import AsyncConnection

from preceptor_services.store.database import Database


def row_locked_write(database: Database) -> AbstractAsyncContextManager[AsyncConnection]:
    """A transaction that writes rows which it has locked itself."""
    if database.engine.dialect.name == "sqlite":
        return database.write()
    return database.read()  # A transaction like any other there, without the one-writer lock.
