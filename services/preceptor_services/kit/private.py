"""Files that their owner alone may read: answers, prompts and people's texts lie in them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO


def make_private(path: Path) -> None:
    """Makes an empty file, unless there is one; what others make beside it has its mode."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))


def append_private(path: Path) -> IO[bytes]:
    """The file, to be appended to."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")


def make_private_folder(path: Path) -> None:
    """Makes a folder with its parents; it alone is private."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
