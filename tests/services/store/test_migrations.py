"""The migrations and the tables say the same, on both databases."""

from __future__ import annotations

import re
from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, inspect

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


def test_every_constraint_has_a_name() -> None:
    unnamed = [
        (table.name, type(constraint).__name__)
        for table in Base.metadata.tables.values()
        for constraint in table.constraints
        if constraint.name is None
    ]

    assert unnamed == []
