"""Options from a file as the fields of a dataclass."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from preceptor_clients.contract.sections import nearest


def dataclass_of(cls: Any, given: Mapping[str, Any], path: str) -> Any:
    """A dataclass of ours from a table; tables in it are the dataclasses of its fields.

    Args:
        cls: The dataclass.
        given: Values by field.
        path: Where the table stands, for messages.

    Raises:
        ValueError: a field is unknown or wrong; it is named.
    """
    hints = get_type_hints(cls)
    known = [field.name for field in fields(cls) if field.init]
    values: dict[str, Any] = {}
    for key, value in given.items():
        where = f"{path}.{key}"
        if key not in known:
            raise ValueError(f"{where}: is unknown; {nearest(key, known)}")
        values[key] = _value(hints[key], value, where)
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _value(hint: Any, value: Any, where: str) -> Any:
    inner = [one for one in _alternatives(hint) if is_dataclass(one)]
    if isinstance(value, Mapping) and inner:
        return dataclass_of(inner[0], cast("Mapping[str, Any]", value), where)
    try:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"]
        raise ValueError(f"{where}: {value!r}: {reason[:1].lower()}{reason[1:]}") from None


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
