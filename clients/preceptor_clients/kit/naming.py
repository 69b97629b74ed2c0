"""Objects and options as people spell them on a command line: `module:name`, and `KEY=VALUE`."""

from __future__ import annotations

import json
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def load_named(spelled: str) -> Any:
    """The object that `module:name` names.

    A module in the working folder is found too: a script's own folder comes first on Python's path,
    and that of an installed command is where the environment keeps its programs.

    Raises:
        ValueError: it is not spelled so, or there is no such module or name; the message says why.
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


def parse_options(pairs: Sequence[str]) -> dict[str, Any]:
    """Options of KEY=VALUE pairs; a VALUE that is no JSON is text.

    Raises:
        ValueError: a pair has no key or no `=`.
    """
    options: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals):
            raise ValueError(f"{pair!r} is not KEY=VALUE")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options
