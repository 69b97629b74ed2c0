"""Files that only their owner may read, because they hold answers, prompts and people's texts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO


def make_private(path: Path) -> None:
    """Makes an empty file, unless there is one; what others make beside it has its mode."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))


def append_private(path: Path) -> IO[bytes]:
    """Opens the file for appending."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")


def make_private_folder(path: Path) -> None:
    """Makes a private folder; parents that it makes are not private."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
