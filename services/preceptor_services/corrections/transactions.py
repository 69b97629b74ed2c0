"""Short writing transactions of the queue.

On SQLite one transaction writes at a time and takes its lock at the start (`BEGIN IMMEDIATE`). On
PostgreSQL claims, renewals and drafts go side by side, each on rows that it locks; what is told to
trainers goes through `Database.write`, whose single writer makes the cursor reliable.
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
