"""The source of the records that a command reads: a database and its blobs, or a running gateway.

A run's folder is its deployment's folder or is below it; a copy of the folder has its own database.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Final

import typer

from preceptor_services.kit.array_blobs import ArrayBlobs
from preceptor_services.kit.blobs import LocalBlobs
from preceptor_services.kit.settings import database_url, find_settings, load_settings
from preceptor_services.store.database import Database

_CONFIG: Final = "preceptor.toml"
_RESOLVED: Final = "resolved.toml"

RunDir = Annotated[
    Path | None, typer.Option(help="Folder of a run or of its deployment; default: this one.")
]
DatabaseUrl = Annotated[str | None, typer.Option(help="URL of a database; requires --blobs.")]
Blobs = Annotated[Path | None, typer.Option(help="Folder of the blobs.")]
Url = Annotated[str | None, typer.Option(help="URL of a running gateway; requires --key-file.")]
KeyFile = Annotated[Path | None, typer.Option(help="File with a key of that gateway.")]


def place_of(run_dir: Path, database: str | None, blobs: Path | None) -> tuple[str, Path]:
    """Database and blobs: as given, else from the settings of the run's deployment.

    Raises:
        ValueError: neither `run_dir` nor a folder above it is a deployment, or it has no database.
    """
    if database is not None and blobs is not None:
        return database, blobs
    folder = find_settings(run_dir).parent
    for name in (
        _CONFIG,
        _RESOLVED,
    ):  # in a copied folder, the resolved paths are those of the original
        path = folder / name
        # The environment may name the database of another deployment on this machine.
        settings = load_settings(path, env={}) if path.exists() else None
        if settings is not None and _is_there(settings.gateway.database):
            return database_url(settings.gateway), settings.gateway.blobs
    raise ValueError(f"{folder}: the database does not exist; nothing was run in this folder yet")


def _is_there(url: str) -> bool:
    scheme, _, path = url.partition(":///")
    return not scheme.startswith("sqlite") or Path(path).exists()


@asynccontextmanager
async def opened(place: tuple[str, Path]) -> AsyncGenerator[tuple[Database, ArrayBlobs]]:
    """The database and the blobs, for reading."""
    url, blobs = place
    database = Database.open(url)
    try:
        yield database, ArrayBlobs(LocalBlobs(blobs))
    finally:
        await database.aclose()
