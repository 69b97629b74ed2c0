"""Files and folders that are written whole or not at all.

A reader sees the old content or the new content, also if the process or the machine ends during
the write: the content is written beside its path, synced, and then renamed to its path.
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
    """Writes `content` to the file at `path`; creates its folder if it is missing.

    Args:
        path: An existing file is replaced.
        content: Bytes, or text that is written as UTF-8.
        mode: Permissions, less the process's umask.

    Returns:
        `path`.
    """
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".part-{secrets.token_hex(8)}")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            # A failed write names no file, and the caller does not know the partial one.
            error.filename = str(path)
        raise
    return path


@contextlib.contextmanager
def whole_folder(path: Path, *, synced: bool = True) -> Generator[Path]:
    """A folder to write files into, which replaces `path` when the block has ended.

    A block that fails leaves nothing, so that a full disk gets its space back; the next one for the
    same `path` removes what the end of the process left behind. Files are synced first, unless they
    are not needed after the machine has ended.
    """
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for file in partial.rglob("*") if synced else ():
            if file.is_file():
                with file.open("rb") as written:
                    os.fsync(written.fileno())
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(path, ignore_errors=True)
    os.replace(partial, path)


def new_key() -> str:
    """A random key of an API."""
    return secrets.token_urlsafe(_KEY_BYTES)


def read_key_file(path: Path) -> str:
    """The text of a key file, without the white space around it.

    Raises:
        FileNotFoundError: it is missing; the message says where it belongs and how to create it.
    """
    try:
        return path.read_text(encoding="utf-8-sig").strip()
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path}: there is no such file in {path.resolve().parent}; copy the key that the "
            f"other side has to it, or make a new one for both: preceptor expert key {path}"
        ) from None


def make_key_file(path: Path) -> None:
    """Creates a file with a new key that only its owner can read; keeps an existing file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY)
    except FileExistsError:
        return
    with os.fdopen(descriptor, "w") as file:
        file.write(new_key() + "\n")
