"""Queries about the audit log."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from preceptor_services.store.tables.provenance import Audit


class AuditRow(NamedTuple):
    """One entry."""

    number: int
    at: float
    actor: str
    action: str
    subject: str
    detail: dict[str, Any]
    previous_sha256: str
    sha256: str


_COLUMNS = tuple(getattr(Audit, name) for name in AuditRow._fields)


async def last(conn: AsyncConnection) -> AuditRow | None:
    """The newest entry."""
    found = (await conn.execute(select(*_COLUMNS).order_by(Audit.number.desc()).limit(1))).first()
    return None if found is None else AuditRow(*found)


async def add(conn: AsyncConnection, row: AuditRow) -> None:
    """Adds an entry; the caller's transaction is the only one that writes."""
    await conn.execute(insert(Audit), [row._asdict()])


async def after(conn: AsyncConnection, number: int, limit: int) -> list[AuditRow]:
    """Entries after this one, the oldest first."""
    query = select(*_COLUMNS).where(Audit.number > number).order_by(Audit.number).limit(limit)
    return [AuditRow(*row) for row in await conn.execute(query)]
