"""Backup and restore of a deployment: the database and the blobs. The broker needs neither.

The database is copied first and the blobs afterwards. A blob is written before the row that names
it and never changes, so each row of the copy has its blobs. Unfinished questions are in the
database: the gateway puts them on the empty broker after a restore. Keys and settings are not
copied, since they are secrets with a place of their own.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from preceptor_clients.contract.deployment import Deployment
from preceptor_clients.kit.files import OWNER_ONLY, write_whole
from preceptor_services.kit.blobs import LocalBlobs
from preceptor_services.kit.private import make_private_folder
from preceptor_services.kit.settings import database_url
from preceptor_services.store.backup import copy_in, copy_out

_BLOBS: Final = "blobs"
_COMPLETE: Final = "complete.json"
_UNFINISHED: Final = ".part-"


def back_up(settings: Deployment, folder: Path) -> int:
    """Copies a deployment into a new folder while it runs; returns the number of blobs.

    Raises:
        FileExistsError: the folder is not empty.
        OSError: a file cannot be read or written.
    """
    make_private_folder(folder)
    if any(folder.iterdir()):
        raise FileExistsError(f"{folder}: is not empty; give a new folder for each backup")
    copy_out(database_url(settings.gateway), folder)
    number = _copy_files(settings.gateway.blobs, folder / _BLOBS)
    write_whole(folder / _COMPLETE, json.dumps({"blobs": number}) + "\n", mode=OWNER_ONLY)
    return number


def restore(folder: Path, settings: Deployment) -> int:
    """Copies a backup into an empty deployment, and checks every blob; returns their number.

    Raises:
        ValueError: the backup is not complete.
        FileExistsError: the deployment has a database or blobs.
        PreceptorError: a blob is damaged; the message names it.
        OSError: a file cannot be read or written.
    """
    complete = folder / _COMPLETE
    if not complete.is_file():
        raise ValueError(f"{folder}: has no {_COMPLETE}, so the backup was broken off or is none")
    blobs = settings.gateway.blobs
    if blobs.exists() and any(blobs.iterdir()):
        raise FileExistsError(f"{blobs}: there are blobs already; restore into a new deployment")
    copied = _copy_files(folder / _BLOBS, blobs)
    expected = json.loads(complete.read_text())["blobs"]
    if copied != expected:
        raise ValueError(f"{folder}: has {copied} blobs, and had {expected} when it was made")
    asyncio.run(_check_blobs(blobs))
    copy_in(folder, database_url(settings.gateway))
    return copied


def _copy_files(source: Path, target: Path) -> int:
    make_private_folder(target)
    number = 0
    for file in _files(source):
        to = target / file.relative_to(source)
        make_private_folder(to.parent)
        shutil.copyfile(file, to)
        to.chmod(OWNER_ONLY)
        number += to.parent != target
    return number


def _files(root: Path) -> Iterator[Path]:
    return (
        file
        for file in sorted(root.rglob("*"))
        if file.is_file() and not file.name.startswith(_UNFINISHED)
    )


async def _check_blobs(root: Path) -> None:
    """Reads every blob, which compares it with the hash that it is named after."""
    blobs = LocalBlobs(root)
    for file in _files(root):
        if file.parent != root and not file.name.endswith(".damaged"):
            await blobs.get(file.name.partition(".")[0])
