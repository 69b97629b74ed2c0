"""Markdown that both the site and a reader of the plain text can use."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells are Markdown already."""
    lines = [_row(headings), _row(["---"] * len(headings))]
    return "\n".join([*lines, *(_row(row) for row in rows)])


def filled_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table without the columns in which no row says anything."""
    columns = [i for i in range(len(headings)) if any(row[i] for row in rows)]
    return table([headings[i] for i in columns], [[row[i] for i in columns] for row in rows])


def code(text: object) -> str:
    """`text` as code; empty where there is none."""
    return f"`{text}`" if str(text) else ""


def anchor(name: str) -> str:
    """An invisible mark that links can point to."""
    return f'<span id="{slug(name)}"></span>'


def slug(name: str) -> str:
    """A name as the part of an address after `#`."""
    return re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-")


def heading(level: int, title: str, name: str) -> str:
    """A heading with an address of its own."""
    return f"{'#' * level} {title} {{#{slug(name)}}}"


def join(*parts: str) -> str:
    """Paragraphs with one empty line between them; empty ones are left out."""
    return "\n\n".join(part.strip("\n") for part in parts if part.strip()) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(text: str) -> str:
    # The site's tables leave code alone, so that a bar in code must not be escaped.
    parts = " ".join(text.split()).split("`")
    return "`".join(p if i % 2 else p.replace("|", "\\|") for i, p in enumerate(parts))
