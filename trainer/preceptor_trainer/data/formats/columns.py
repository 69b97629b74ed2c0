"""What formats share: values of a row's columns, and the walk over a file's rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from preceptor_trainer.data.reading import ReadRow

Columns = Mapping[str, Any]


def each_row(
    rows: Sequence[ReadRow], made: Callable[[Columns], dict[str, Any] | None], left_out: str
) -> list[ReadRow]:
    """The rows that `made` makes; those of which it makes nothing are left out.

    Raises:
        ValueError: a row is not of the format, or none is left, where `left_out` says why.
    """
    found: list[ReadRow] = []
    for row in rows:
        try:
            columns = made(row.columns)
        except ValueError as error:
            raise ValueError(f"{row.where}: {error}") from None
        if columns is not None:
            found.append(ReadRow(row.where, columns))
    if rows and not found:
        raise ValueError(f"{rows[0].where}: {left_out}")
    return found


def first_of(columns: Columns, names: Sequence[str]) -> Any:
    """The value of the first of these columns that the row has; None where it has none."""
    return next((columns[name] for name in names if columns.get(name) not in (None, "")), None)


def text_of(columns: Columns, names: Sequence[str]) -> str:
    """The text in the first of these columns that the row has.

    Raises:
        ValueError: it has none, or something else in it.
    """
    value = first_of(columns, names)
    if value is None:
        had = ", ".join(sorted(columns)) or "nothing"
        raise ValueError(f"has none of the columns {', '.join(names)}, but {had}")
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{names[0]}: is a {type(value).__name__}, not a text")
    return value


def table_of(columns: Columns, name: str) -> Columns:
    """The object in a column; empty where the row has none."""
    value = columns.get(name)
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def chat(system: str | None, user: str) -> list[dict[str, str]]:
    """A chat of one user turn, after a system turn where there is one."""
    turns = [{"role": "user", "content": user}]
    return [{"role": "system", "content": system}, *turns] if system else turns


def own_id(columns: Columns, names: Sequence[str]) -> dict[str, str]:
    """The row's id as a column, where it is a text: two files may both count from 0."""
    value = first_of(columns, names)
    return {"id": value} if isinstance(value, str) else {}
