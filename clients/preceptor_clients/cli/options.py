"""Options as `name=value`; the signature of the function that takes them gives their types.

    typed_options(["steps=12", "name=first"], recipe)      # {"steps": 12, "name": "first"}

A value may be plain text or JSON; lists and mappings need JSON.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_type_hints

from pydantic import PydanticUserError, TypeAdapter, ValidationError


def typed_options(pairs: Sequence[str], takes: Callable[..., Any]) -> dict[str, Any]:
    """The options of `takes` by name.

    Raises:
        ValueError: a pair has no `=`, or a value does not have its option's type.
    """
    types = _types(takes)
    options: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not (name and equals):
            raise ValueError(f"{pair!r} is not NAME=VALUE")
        options[name] = _value(name, text, types)
    return options


def _types(takes: Callable[..., Any]) -> Mapping[str, Any]:
    """Declared types by name; empty where they cannot be resolved."""
    try:
        return get_type_hints(takes.__init__ if inspect.isclass(takes) else takes)
    except (NameError, TypeError):
        return {}


def _value(name: str, text: str, types: Mapping[str, Any]) -> Any:
    plain = _plain(text)
    if name not in types:
        return plain
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(types[name])
    except PydanticUserError:
        return plain  # pydantic cannot validate the user's own class; its code must check the value
    try:
        return adapter.validate_python(plain)
    except ValidationError:
        pass
    try:
        return adapter.validate_python(text)
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"]
        raise ValueError(f"{name}={text}: {reason[:1].lower()}{reason[1:]}") from None


def _plain(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
