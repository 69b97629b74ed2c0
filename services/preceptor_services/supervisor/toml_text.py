"""Settings as TOML text.

The standard library reads TOML and does not write it; this writes what our settings hold: tables of
tables, strings, numbers, truth values and lists. Left out: dates, comments, and null, which TOML
lacks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, cast


def to_toml(document: Mapping[str, Any]) -> str:
    """`document` as TOML; its tables become sections.

    Raises:
        ValueError: it holds something that TOML has no words for.
    """
    return "\n".join(_section((), document)).strip() + "\n"


def _section(path: tuple[str, ...], table: Mapping[str, Any]) -> list[str]:
    plain = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    lines = [f"{_key(key)} = {_value(value)}" for key, value in plain.items()]
    if path and (lines or not table):
        lines = [f"\n[{'.'.join(_key(part) for part in path)}]", *lines]
    for key, value in table.items():
        if isinstance(value, Mapping):
            lines += _section((*path, key), cast("Mapping[str, Any]", value))
    return lines


def _key(key: str) -> str:
    return _string(key)


def _value(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float() if math.isfinite(value):
            return repr(value)
        case str():
            return _string(value)
        case list() | tuple():
            items = cast("list[object]", value)
            return f"[{', '.join(_value(item) for item in items)}]"
        case Mapping():
            table = cast("Mapping[str, object]", value)
            return f"{{{', '.join(f'{_key(k)} = {_value(v)}' for k, v in table.items())}}}"
        case _:
            raise ValueError(f"{value!r} has no place in TOML")


def _string(text: str) -> str:
    # JSON's escapes are TOML's, but for DEL, which TOML wants escaped too.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
