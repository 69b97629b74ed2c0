"""One format for the log of every process: time, level, who says it, what."""

from __future__ import annotations

import logging
from typing import Final

FORMAT: Final = "%(asctime)s %(levelname)s %(name)s %(message)s"
_CHATTY: Final = ("alembic", "asyncio", "httpx")
"""They would write a line for each request."""


def log_to_stderr() -> None:
    """Writes everything from INFO on to standard error, a line each."""
    logging.basicConfig(level=logging.INFO, format=FORMAT)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
