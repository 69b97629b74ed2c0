"""Settings as one level of dotted names, to be compared and listed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast


def flatten(value: Any, prefix: str = "") -> dict[str, str]:
    """A nested configuration as one level of dotted names; lists of values stay one value."""
    if isinstance(value, Mapping):
        items = cast("Mapping[str, Any]", value)
        flat: dict[str, str] = {}
        for name, inner in items.items():
            flat |= flatten(inner, f"{prefix}.{name}" if prefix else name)
        return flat
    listed: list[Any] = cast("list[Any]", value) if isinstance(value, list) else []
    if any(isinstance(inner, Mapping) for inner in listed):
        return flatten({str(i): inner for i, inner in enumerate(listed)}, prefix)
    return {prefix: str(cast("object", value))}
