"""Free values of a service, as names with readable values, and tables for lists of mappings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

DASH: Final = "–"


@dataclass(frozen=True, kw_only=True)
class DetailTable:
    """A list of mappings, such as the cases that an executor ran."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def facts(details: Mapping[str, Any]) -> dict[str, str]:
    """Every value that is not a table, by its dotted name."""
    return {name: readable_value(value) for name, value in _flat(details) if not _is_table(value)}


def tables(details: Mapping[str, Any]) -> list[DetailTable]:
    """Every list of mappings, at any depth."""
    return [_table(name, value) for name, value in _flat(details) if _is_table(value)]


def readable_value(value: Any) -> str:
    """A text as it is, a missing value as a dash, a list as its elements, else JSON."""
    if value is None:
        return DASH
    if isinstance(value, str):
        return value
    listed = cast("list[Any]", value) if isinstance(value, list) else []
    if listed and not any(isinstance(inner, (list, Mapping)) for inner in listed):
        return ", ".join(readable_value(inner) for inner in listed)
    return json.dumps(value, ensure_ascii=False)


def _flat(details: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in details.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(cast("Mapping[str, Any]", value), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _is_table(value: Any) -> bool:
    listed = cast("list[Any]", value) if isinstance(value, list) else []
    return bool(listed) and all(isinstance(row, Mapping) for row in listed)


def _table(name: str, rows: list[Mapping[str, Any]]) -> DetailTable:
    columns = tuple(dict.fromkeys(key for row in rows for key in row))
    return DetailTable(
        name=name,
        columns=columns,
        rows=tuple(tuple(readable_value(row.get(c)) for c in columns) for row in rows),
    )
