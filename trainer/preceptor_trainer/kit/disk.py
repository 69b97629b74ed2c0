"""Errors of the disk, also from libraries that hide them behind errors of their own."""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from safetensors import SafetensorError

MAKE_ROOM: Final = "make room first"
"""What to do where a disk is full, or will be."""
_IN_WORDS: Final = re.compile(r"\(os error (\d+)\)")


@contextmanager
def disk_errors(path: Path) -> Generator[None]:
    """Raises a failed write inside the block as `OSError` that names `path`.

    torch raises a `RuntimeError` about its own format, safetensors an error whose text alone has
    the number, and a plain write an `OSError` without a path.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        number = _number(error)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def _number(error: BaseException | None) -> int | None:
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        found = _IN_WORDS.search(str(error)) if isinstance(error, SafetensorError) else None
        if found is not None:
            return int(found[1])
        error = error.__cause__ or error.__context__
    return None
