"""Queries about the people of the correction queue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from preceptor_services.store.prepared import insert_new
from preceptor_services.store.sql import padded
from preceptor_services.store.tables.corrections import CorrectionPerson


class PersonRow(NamedTuple):
    """One person."""

    name: str
    role: str
    settings: dict[str, Any]
    created_at: float
    revoked_at: float | None
    retired_at: float | None


_COLUMNS = (
    CorrectionPerson.name,
    CorrectionPerson.role,
    CorrectionPerson.settings,
    CorrectionPerson.created_at,
    CorrectionPerson.revoked_at,
    CorrectionPerson.retired_at,
)
_BY_KEYS: Final = select(CorrectionPerson.token_hmac, *_COLUMNS).where(
    CorrectionPerson.token_hmac.in_(bindparam("keys")), CorrectionPerson.revoked_at.is_(None)
)
_LOCK: Final = (
    select(CorrectionPerson.name)
    .where(CorrectionPerson.name.in_(bindparam("names")))
    .order_by(CorrectionPerson.name)
    .with_for_update(key_share=True)
)


def new_row(name: str, role: str, token_hmac: str | None, now: float) -> dict[str, Any]:
    """A row for a new person."""
    return {
        "name": name,
        "role": role,
        "token_hmac": token_hmac,
        "settings": {},
        "created_at": now,
        "revoked_at": None,
        "retired_at": None,
        "retired_reason": None,
    }


async def add(conn: AsyncConnection, row: dict[str, Any]) -> None:
    await conn.execute(insert(CorrectionPerson), [row])


async def add_unknown(conn: AsyncConnection, rows: list[dict[str, Any]]) -> None:
    """Those of `rows` whose names are new."""
    await insert_new(conn, CorrectionPerson, rows)


async def by_keys(conn: AsyncConnection, token_hmacs: Sequence[str]) -> dict[str, PersonRow]:
    """The person of each of these keys that is valid."""
    rows = await conn.execute(_BY_KEYS, {"keys": padded(token_hmacs)})
    return {str(row[0]): PersonRow(*row[1:]) for row in rows}


async def find(conn: AsyncConnection, name: str) -> PersonRow | None:
    """The person of that name."""
    row = (await conn.execute(select(*_COLUMNS).where(CorrectionPerson.name == name))).first()
    return None if row is None else PersonRow(*row)


async def every(conn: AsyncConnection) -> list[PersonRow]:
    """All people, sorted by name."""
    rows = await conn.execute(select(*_COLUMNS).order_by(CorrectionPerson.name))
    return [PersonRow(*row) for row in rows]


async def change(conn: AsyncConnection, name: str, **values: Any) -> None:
    """Changes columns of one person."""
    await conn.execute(
        update(CorrectionPerson).where(CorrectionPerson.name == name).values(**values)
    )


async def lock(conn: AsyncConnection, names: Sequence[str]) -> None:
    """Locks people, so that one transaction at a time adds claims; SQLite has one writer."""
    await conn.execute(_LOCK, {"names": padded(names)})
