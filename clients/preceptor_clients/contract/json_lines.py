"""Lines of JSON, one value each.

A line ends only at `\\n`: U+2028, U+2029, U+0085 and the vertical tab are characters of a text,
which `str.splitlines` treats as line ends. A byte order mark at the start is skipped, and so are
blank lines.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

_BLANK = " \t\r"


class Line(NamedTuple):
    """One line that is not blank; numbers count from 1 and include blank ones."""

    number: int
    text: str


def lines_of(content: bytes) -> list[Line]:
    """The lines of `content`.

    Raises:
        ValueError: it is not UTF-8.
    """
    lines = content.decode("utf-8-sig").split("\n")
    return [Line(n, text) for n, text in enumerate(lines, start=1) if text.strip(_BLANK)]


def read_lines(path: Path) -> list[Line]:
    """The lines of a file.

    Raises:
        ValueError: it is not UTF-8; the file is named.
    """
    try:
        return lines_of(path.read_bytes())
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8: {error}") from None
