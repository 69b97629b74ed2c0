"""Files and folders that are written whole or not at all.

A reader sees what was there before or what is there now, also where the process or the machine
ended in between: the content is written beside its place, synced, and then takes the place.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Final

OWNER_ONLY: Final = 0o600
_KEY_BYTES: Final = 32


def write_whole(path: Path, content: bytes | str, *, mode: int = 0o666) -> Path:
    """Puts a file with `content` at `path`; its folder is made where it is missing.

    Args:
        path: Takes the place of a file that is there.
        content: Bytes, or text that is written as UTF-8.
        mode: Permissions, less the process's umask.

    Returns:
        `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".part-{secrets.token_hex(8)}")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return path


@contextlib.contextmanager
def whole_folder(path: Path, *, synced: bool = True) -> Generator[Path]:
    """A folder to write files into, which takes the place of `path` when the block has ended.

    What an interrupted block left behind is removed by the next one for the same `path`. Files are
    synced first, unless they are of no use after the machine has ended.
    """
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    for file in partial.iterdir() if synced else ():
        with file.open("rb") as written:
            os.fsync(written.fileno())
    shutil.rmtree(path, ignore_errors=True)
    os.replace(partial, path)


def new_key() -> str:
    """A random key of an API."""
    return secrets.token_urlsafe(_KEY_BYTES)


def read_key_file(path: Path) -> str:
    """The text of a key file, without the white space around it.

    Raises:
        FileNotFoundError: there is none; the message says where it belongs and how it is made.
    """
    try:
        return path.read_text(encoding="utf-8-sig").strip()
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path}: there is no such file in {path.resolve().parent}; copy the key that the "
            f"other side has to it, or make a new one for both: preceptor expert key {path}"
        ) from None


def make_key_file(path: Path) -> None:
    """Makes a file with a new key that only its owner can read, unless there is a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY)
    except FileExistsError:
        return
    with os.fdopen(descriptor, "w") as file:
        file.write(new_key() + "\n")
