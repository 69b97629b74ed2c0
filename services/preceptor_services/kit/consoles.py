"""Where commands print tables."""

from __future__ import annotations

from typing import Final

from rich.console import Console

_WIDE: Final = 200


def console_for_tables() -> Console:
    """As wide as the terminal; a file or a pipe has no width, so there nothing is cut or folded."""
    found = Console()
    return found if found.is_terminal else Console(width=max(found.width, _WIDE))
