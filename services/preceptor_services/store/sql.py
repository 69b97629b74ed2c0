"""Helpers of all query modules: inserting only new rows, and queries by several keys."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from preceptor_services.store.tables.questions import Base

_MOST_KEYS: Final = 8192


def padded(keys: Sequence[str]) -> list[str]:
    """`keys`, the last one repeated up to a power of two.

    Each length of an `IN` list is a separate statement, and PostgreSQL prepares it on every
    connection.
    """
    length = 1 << (len(keys) - 1).bit_length() if keys else 0
    return [*keys, *[keys[-1] for _ in range(length - len(keys))]]


def in_parts(keys: Iterable[str]) -> list[list[str]]:
    """`keys` in lists that fit into one statement: PostgreSQL allows 32,767 parameters in one."""
    every = list(keys)
    return [every[start : start + _MOST_KEYS] for start in range(0, len(every), _MOST_KEYS)]


async def insert_new(
    conn: AsyncConnection, table: type[Base], rows: Sequence[dict[str, Any]]
) -> None:
    """Inserts `rows`; rows whose key exists are not changed."""
    if not rows:
        return
    dialect = sqlite if conn.dialect.name == "sqlite" else postgresql
    await conn.execute(dialect.insert(table).on_conflict_do_nothing(), list(rows))
