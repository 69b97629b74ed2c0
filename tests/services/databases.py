"""Databases that have their tables: copies of one that was migrated once in this process."""

from __future__ import annotations

import asyncio
import functools
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from preceptor_services.kit.private import make_private
from preceptor_services.store.database import Database


def sqlite_with_tables(path: Path) -> str:
    """The URL of a new file at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    make_private(path)
    path.write_bytes(_migrated_file())
    return f"sqlite+aiosqlite:///{path}"


def migrate(url: str) -> None:
    """Makes the tables; where an event loop runs, too."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, _migrate(url)).result()


async def _migrate(url: str) -> None:
    database = Database.open(url)
    await database.migrate()
    await database.aclose()


@functools.cache
def _migrated_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "migrated.db"
        migrate(f"sqlite+aiosqlite:///{path}")
        assert [file.name for file in Path(folder).iterdir()] == [path.name], "nothing in a log"
        return path.read_bytes()
