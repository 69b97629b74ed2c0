"""Reads the right answers of a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast


def value_of(row: Mapping[str, Any], column: str) -> Any:
    """The value in a column.

    Raises:
        KeyError: the row has no such column.
        ValueError: it is empty.
    """
    if column not in row:
        raise KeyError(f"the row has no column {column!r}; it has {', '.join(sorted(row))}")
    if row[column] is None:
        raise ValueError(f"the column {column!r} is empty")
    return row[column]


def answers_of(row: Mapping[str, Any], column: str) -> list[Any]:
    """The right answers in a column: one value, or a list of which each is right.

    Raises:
        KeyError: the row has no such column.
        ValueError: it is empty.
    """
    value = value_of(row, column)
    answers = cast("list[Any]", value) if isinstance(value, list) else [value]
    if not answers or any(answer is None for answer in answers):
        raise ValueError(f"the column {column!r} is empty")
    return answers


def shown(answers: list[Any], *, limit: int = 3) -> str:
    """Right answers in words of a message."""
    listed = " or ".join(str(answer) for answer in answers[:limit])
    return listed + (" or another" if len(answers) > limit else "")
