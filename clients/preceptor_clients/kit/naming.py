"""Objects named on a command line as `module:name`."""

from __future__ import annotations

import pkgutil
import sys
from pathlib import Path
from typing import Any


def load_named(spelled: str) -> Any:
    """The object that `module:name` names.

    A module in the working folder is found too: a script's own folder comes first on Python's path,
    and that of an installed command is where the environment keeps its programs.

    Raises:
        ValueError: it is not of that form, or there is no such module or name.
    """
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    module, colon, name = spelled.partition(":")
    if not (module and colon and name):
        raise ValueError(f"{spelled!r} is not module:name")
    try:
        return pkgutil.resolve_name(spelled)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{spelled!r} cannot be imported: {error}") from error
