"""One log format for all processes: time, level, logger, message."""

from __future__ import annotations

import logging
from typing import Final

FORMAT: Final = "%(asctime)s %(levelname)s %(name)s %(message)s"
_CHATTY: Final = ("alembic", "asyncio", "httpx")
"""Loggers that write a line per request at level INFO."""


def log_to_stderr() -> None:
    """Sends log records from level INFO to standard error."""
    logging.basicConfig(level=logging.INFO, format=FORMAT)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
