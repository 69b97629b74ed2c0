"""What every query module needs: inserting only what is new, on either database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from preceptor_services.store.tables import Base


async def insert_new(
    conn: AsyncConnection, table: type[Base], rows: Sequence[dict[str, Any]]
) -> None:
    """Inserts `rows`; those whose key is taken are left as they are."""
    if not rows:
        return
    dialect = sqlite if conn.dialect.name == "sqlite" else postgresql
    await conn.execute(dialect.insert(table).on_conflict_do_nothing(), list(rows))
