"""Copies a whole database to a file while it is in use, and back into an empty one.

SQLite is copied by its own backup call, PostgreSQL by its own `pg_dump` and `pg_restore`, which
must be of the server's version or newer. Either copy is of one moment.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
from pathlib import Path
from typing import Final

from sqlalchemy import URL, make_url

from preceptor_services.kit.private import make_private

SQLITE_FILE: Final = "database.sqlite3"
POSTGRES_FILE: Final = "database.pgdump"


def copy_out(url: str, folder: Path) -> Path:
    """Copies the database at `url` into a file in `folder`, and returns it.

    Raises:
        OSError: the database or a tool is missing, or the copy failed.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        source, target = Path(str(parsed.database)), folder / SQLITE_FILE
        if not source.is_file():
            raise FileNotFoundError(f"{source}: there is no such database")
        make_private(target)
        _copy_sqlite(source, target)
        return target
    target = folder / POSTGRES_FILE
    make_private(target)
    _run(parsed, "pg_dump", "--format=custom", "--no-owner", f"--file={target}")
    return target


def copy_in(folder: Path, url: str) -> None:
    """Copies what `copy_out` wrote into the empty database at `url`.

    Raises:
        FileExistsError: the database is not empty.
        OSError: the file or a tool is missing, or the copy failed.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        target = Path(str(parsed.database))
        if target.exists() and target.stat().st_size:
            raise FileExistsError(f"{target}: there is a database already; restore into a new one")
        target.parent.mkdir(parents=True, exist_ok=True)
        make_private(target)
        _copy_sqlite(_file(folder, SQLITE_FILE), target)
        return
    dump = _file(folder, POSTGRES_FILE)
    # One transaction: a database that is not empty, or a broken file, leaves nothing behind.
    _run(
        *(parsed, "pg_restore", "--exit-on-error", "--single-transaction", "--no-owner"),
        *(f"--dbname={parsed.database}", str(dump)),
    )


def _file(folder: Path, name: str) -> Path:
    file = folder / name
    if not file.is_file():
        raise FileNotFoundError(f"{file}: is missing; the backup is of another kind of database")
    return file


def _copy_sqlite(source: Path, target: Path) -> None:
    with (
        contextlib.closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as reading,
        contextlib.closing(sqlite3.connect(target)) as writing,
    ):
        reading.backup(writing)


def _run(url: URL, tool: str, *options: str) -> None:
    binary = shutil.which(tool)
    if binary is None:
        raise FileNotFoundError(f"{tool}: is not on the path; install PostgreSQL's client programs")
    # In the environment, where other users of the machine cannot read the password.
    wanted = {
        "PGHOST": url.query.get("host") or url.host,
        "PGPORT": None if url.port is None else str(url.port),
        "PGUSER": url.username,
        "PGPASSWORD": url.password,
        "PGDATABASE": url.database,
    }
    env = os.environ | {name: str(value) for name, value in wanted.items() if value is not None}
    done = subprocess.run([binary, *options], env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{tool} failed: {done.stderr.strip()[-1000:]}")
