"""The migrations and the tables say the same, on both databases."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, MetaData, Table, insert, inspect, select

from preceptor_services.store import database as database_module
from preceptor_services.store.database import Database, alembic_config
from preceptor_services.store.tables import provenance as provenance_tables
from preceptor_services.store.tables.questions import Base

assert provenance_tables


def _tables(conn: Connection) -> set[str]:
    return set(inspect(conn).get_table_names()) - {"alembic_version"}


async def test_migrations_go_up_and_down_and_up_again(database: Database) -> None:
    async with database.write() as conn:
        await conn.run_sync(lambda c: command.downgrade(alembic_config(c), "base"))
        emptied = await conn.run_sync(_tables)
    await database.migrate()

    async with database.read() as conn:
        tables = await conn.run_sync(_tables)
    assert emptied == set()
    assert tables == set(Base.metadata.tables)


async def test_migrated_tables_equal_the_declared_ones(database: Database) -> None:
    def differences(conn: Connection) -> list[object]:
        context = MigrationContext.configure(conn, opts={"compare_type": True})
        return compare_metadata(context, Base.metadata)

    async with database.read() as conn:
        found = await conn.run_sync(differences)

    assert found == []


def test_revisions_are_one_chain_and_each_file_is_named_after_its_own() -> None:
    files = sorted(Path(database_module.__file__).parent.glob("migrations/versions/*.py"))
    chain = [
        re.findall(r'^(?:down_)?revision = "?(\w+)"?$', file.read_text(), re.MULTILINE)
        for file in files
    ]
    names = [file.name[:4] for file in files]

    assert chain == [list(pair) for pair in zip(names, ["None", *names], strict=False)]


def _filled(conn: Connection) -> dict[str, list[tuple[object, ...]]]:
    """One row in each table of the database as it is; every key is the same, so that all fit."""
    metadata = MetaData()
    metadata.reflect(conn)
    values = {int: 1, float: 1.5, str: "x", bool: True, bytes: b"x", dict: {"a": 1}}
    rows: dict[str, list[tuple[object, ...]]] = {}
    for table in metadata.sorted_tables:
        if table.name != "alembic_version":
            row = {
                # SQLite's JSON is reflected as any object.
                column.name: values.get(column.type.python_type, {"a": 1})
                for column in table.columns
            }
            conn.execute(insert(table), [row])
            rows[table.name] = _rows(conn, table)
    return rows


def _rows(conn: Connection, table: Table) -> list[tuple[object, ...]]:
    return [tuple(row) for row in conn.execute(select(*table.columns))]


@pytest.fixture(params=["sqlite", "postgres"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path}/empty.db"
    return request.getfixturevalue("postgres")()


async def test_R22_a_database_of_the_oldest_revision_is_upgraded_with_its_data(
    empty_database_url: str,
) -> None:
    database = Database.open(empty_database_url)
    await database.migrate("0001")
    async with database.write() as conn:
        old = await conn.run_sync(_filled)
    await database.migrate()

    def again(conn: Connection) -> dict[str, list[tuple[object, ...]]]:
        before = MetaData()
        before.reflect(conn, only=list(old))
        return {name: _rows(conn, before.tables[name]) for name in old}

    async with database.read() as conn:
        new = await conn.run_sync(again)
    await database.aclose()

    assert len(old) > 10
    for name, [row] in old.items():
        [upgraded] = new[name]
        # Later columns come last; tickets that wait for a promise get an end, others stay.
        assert upgraded[: len(row)] == row, name


def test_every_constraint_has_a_name() -> None:
    unnamed = [
        (table.name, type(constraint).__name__)
        for table in Base.metadata.tables.values()
        for constraint in table.constraints
        if constraint.name is None
    ]

    assert unnamed == []
