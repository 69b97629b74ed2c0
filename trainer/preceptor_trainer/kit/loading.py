"""What a command's user names as `module:name`: a recipe, a comparison, a method."""

from __future__ import annotations

from typing import Any

import typer

from preceptor_clients.kit import naming


def load_named(path: str, hint: str, *, home: str = "") -> Any:
    """The object that `module:name` names; a bare name is looked up in `home`.

    Raises:
        typer.BadParameter: there is no such thing; the message says why.
    """
    try:
        return naming.load_named(path if ":" in path or not home else f"{home}:{path}")
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=hint) from None
