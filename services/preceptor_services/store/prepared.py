"""Statements that are compiled once and run on SQLite's driver directly.

SQLAlchemy spends eight times as long on a short statement as SQLite does: it looks up the compiled
form, renders its lists, switches greenlets, and builds a result. The statements of the answer path
run so often that this is most of a question's cost, so they are compiled once, and their lists and
values are filled in here. They are still written as SQLAlchemy statements; on PostgreSQL, whose
round trips cost more than all of this, they run through it as usual.

Example:
    FIND = Prepared(select(Ticket.id, Ticket.state).where(Ticket.id.in_(bindparam("ids"))))
    rows = await FIND.rows(conn, {"ids": ids})
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from sqlalchemy import Connection as SyncConnection
from sqlalchemy import Insert, Select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import UpdateBase
from sqlalchemy.types import TypeEngine

from preceptor_services.store.sql import padded
from preceptor_services.store.sqlite_driver import DirectConnection
from preceptor_services.store.tables.questions import Base

_DIALECT: Final = sqlite.dialect(paramstyle="named")
_PART: Final = 256
"""Rows or keys of one call of the driver. It runs on the event loop, so that longer ones would hold
up all other requests."""
_LIST: Final = re.compile(r"__\[POSTCOMPILE_(\w+)\]")

Values = Mapping[str, Any]
_Convert = Callable[[Any], Any]
_Statement = Select[*tuple[Any, ...]] | UpdateBase


@dataclass(frozen=True)
class _Compiled:
    """The text of a statement, and how its values go in and come out."""

    text: str
    """With a placeholder for each list."""
    fixed: dict[str, Any]
    """Values that are part of the statement itself."""
    lists: tuple[str, ...]
    bind: dict[str, _Convert]
    columns: tuple[tuple[int, _Convert], ...]
    """Columns of a row that need a conversion."""
    texts: dict[tuple[int, ...], str]
    """By the lengths of the lists."""


class Prepared:
    """One statement; its lists are `in_(bindparam(NAME))`."""

    def __init__(self, statement: _Statement) -> None:
        self._statement = statement
        self._compiled: dict[tuple[str, ...] | None, _Compiled] = {}

    async def rows(self, conn: AsyncConnection, values: Values) -> Sequence[Sequence[Any]]:
        """Runs the statement once; its rows, if it returns some."""
        driver = direct(conn)
        if driver is None:
            result = await conn.execute(self._statement, dict(values))
            return result.all() if result.returns_rows else ()
        compiled = self._for(values)
        text, filled = _filled(compiled, values)
        found = await driver.query(text, filled)
        return _converted(found, compiled.columns) if compiled.columns else found

    async def for_each_key(
        self, conn: AsyncConnection, name: str, keys: Sequence[Any]
    ) -> list[Sequence[Any]]:
        """As `rows`, for a statement in which each key of its only list stands for itself.

        Others are served between the parts of a long list.
        """
        found: list[Sequence[Any]] = []
        for start in range(0, len(keys), _PART):
            if start:
                await asyncio.sleep(0)
            found += await self.rows(conn, {name: keys[start : start + _PART]})
        return found

    async def many(self, conn: AsyncConnection, rows: Sequence[Values]) -> None:
        """Runs the statement for each of `rows`, which have the same names and no lists.

        Others are served between the parts of many rows.
        """
        driver = direct(conn)
        if driver is None:
            await conn.execute(self._statement, [dict(row) for row in rows])
            return
        compiled = self._for(rows[0])
        for start in range(0, len(rows), _PART):
            if start:
                await asyncio.sleep(0)
            part = [{**compiled.fixed, **row} for row in rows[start : start + _PART]]
            for row in part:
                _bind(compiled, row)
            await driver.query_many(compiled.text, part)

    def _for(self, values: Values) -> _Compiled:
        # The columns of an INSERT are those that have values.
        names = tuple(values) if isinstance(self._statement, Insert) else None
        found = self._compiled.get(names)
        if found is None:
            found = self._compiled[names] = _compile(self._statement, names)
        return found


def direct(conn: AsyncConnection) -> DirectConnection | None:
    """The SQLite driver under a connection; None on PostgreSQL."""
    assert conn.sync_connection is not None, "the connection is open"
    return driver_of(conn.sync_connection)


def driver_of(conn: SyncConnection) -> DirectConnection | None:
    """As `direct`, of the connection within."""
    driver = getattr(conn.connection.dbapi_connection, "driver_connection", None)
    return driver if isinstance(driver, DirectConnection) else None


def _compile(statement: _Statement, names: tuple[str, ...] | None) -> _Compiled:
    columns = None if names is None else list(names)
    compiled = statement.compile(dialect=_DIALECT, column_keys=columns)
    assert isinstance(compiled, SQLCompiler), "a statement with text"
    text = compiled.string
    binders = {name: _binder(bind.type) for name, bind in compiled.binds.items()}
    readers = [_reader(column.type) for column in _columns(statement)]
    return _Compiled(
        text=text,
        fixed={
            name: bind.effective_value
            for name, bind in compiled.binds.items()
            if not bind.required and name.isidentifier()
        },
        lists=tuple(dict.fromkeys(_LIST.findall(text))),
        bind={name: convert for name, convert in binders.items() if convert is not None},
        columns=tuple((i, read) for i, read in enumerate(readers) if read is not None),
        texts={},
    )


def _columns(statement: _Statement) -> Sequence[Any]:
    """The columns of a row."""
    if isinstance(statement, Select):
        return list(statement.selected_columns)
    return list(statement.exported_columns)


def _binder(of: TypeEngine[Any]) -> _Convert | None:
    return of.dialect_impl(_DIALECT).bind_processor(_DIALECT)


def _reader(of: TypeEngine[Any]) -> _Convert | None:
    return of.dialect_impl(_DIALECT).result_processor(_DIALECT, None)


def _filled(compiled: _Compiled, values: Values) -> tuple[str, dict[str, Any]]:
    """The text for lists of these lengths, and every value by its name."""
    filled = {**compiled.fixed, **values}
    _bind(compiled, filled)
    if not compiled.lists:
        return compiled.text, filled
    lengths: list[int] = []
    for name in compiled.lists:
        keys = padded(filled.pop(name))
        filled |= {f"{name}__{place}": key for place, key in enumerate(keys)}
        lengths.append(len(keys))
    text = compiled.texts.get(tuple(lengths))
    if text is None:
        sizes = dict(zip(compiled.lists, lengths, strict=True))
        text = _LIST.sub(lambda found: _in(found[1], sizes[found[1]]), compiled.text)
        compiled.texts[tuple(lengths)] = text
    return text, filled


def _in(name: str, length: int) -> str:
    return ", ".join(f":{name}__{place}" for place in range(length))


def _bind(compiled: _Compiled, values: dict[str, Any]) -> None:
    """Converts the values that SQLite stores in another form."""
    for name, convert in compiled.bind.items():
        if name in values:
            values[name] = convert(values[name])


def _converted(
    rows: Sequence[Sequence[Any]], columns: tuple[tuple[int, _Convert], ...]
) -> list[list[Any]]:
    converted = [list(row) for row in rows]
    for row in converted:
        for place, read in columns:
            row[place] = read(row[place])
    return converted


async def insert_new(
    conn: AsyncConnection, table: type[Base], rows: Sequence[dict[str, Any]]
) -> None:
    """Inserts `rows`; rows whose key exists are not changed."""
    if rows:
        await _insert_new(table, conn.dialect.name).many(conn, rows)


@cache
def _insert_new(table: type[Base], dialect: str) -> Prepared:
    inserts = sqlite if dialect == "sqlite" else postgresql
    return Prepared(inserts.insert(table).on_conflict_do_nothing())
