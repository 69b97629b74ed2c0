"""What a command's user names as `module:name`: a recipe, a comparison, a method."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import typer


def load_named(path: str, hint: str, *, home: str = "") -> Any:
    """The object that `module:name` names; a bare name is looked up in `home`.

    A module in the working folder is found too: a script's own folder comes first on Python's path,
    and that of an installed command is where the environment keeps its programs.

    Raises:
        typer.BadParameter: there is no such thing; the message says why.
    """
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    module, colon, name = path.rpartition(":")
    if not colon and not home:
        raise typer.BadParameter(f"{path!r} is not module:name", param_hint=hint)
    try:
        return getattr(import_module(module if colon else home), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise typer.BadParameter(f"{path!r}: {error}", param_hint=hint) from None
