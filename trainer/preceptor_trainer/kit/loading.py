"""Loads what a command names as `module:name`: a recipe, a comparison, a method."""

from __future__ import annotations

import importlib
from typing import Any

import typer

from preceptor_clients.kit import naming


def load_named(path: str, hint: str, *, home: str = "") -> Any:
    """The object that `module:name` names; a bare name is looked up in `home`.

    Raises:
        typer.BadParameter: it cannot be loaded; the message says why, or which names there are.
    """
    if home and ":" not in path:
        return _at_home(path, hint, home)
    try:
        return naming.load_named(path)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=hint) from None


def _at_home(name: str, hint: str, home: str) -> Any:
    module = importlib.import_module(home)
    offered: list[str] = getattr(module, "__all__", dir(module))
    if name not in offered:
        raise typer.BadParameter(
            f"{name!r} is neither module:name nor one of {', '.join(map(_typed, offered))}",
            param_hint=hint,
        )
    return getattr(module, name)


def _typed(name: str) -> str:
    """A constant is typed in small letters, its words joined by hyphens."""
    return name.lower().replace("_", "-") if name.isupper() else name
