"""One log format for all processes: time, level, logger, message and the id of the request.

`PRECEPTOR_LOG_FORMAT=json` writes one JSON object a line instead of text. `PRECEPTOR_LOG_LEVEL` is
a level of Python's logging; at DEBUG each process writes one line for each request that it serves
or sends.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from preceptor_clients.kit import request_ids

FORMAT_ENV: Final = "PRECEPTOR_LOG_FORMAT"
LEVEL_ENV: Final = "PRECEPTOR_LOG_LEVEL"
FORMAT: Final = "%(asctime)s %(levelname)s %(name)s %(message)s"
_CHATTY: Final = ("alembic", "asyncio", "httpx", "httpcore", "aiohttp", "aiosqlite")
"""Loggers of libraries that write a line per request."""


class TextFormatter(logging.Formatter):
    """A line of text; the id of the request, if any, is at its end."""

    def __init__(self) -> None:
        super().__init__(FORMAT)

    def formatMessage(self, record: logging.LogRecord) -> str:
        request = request_ids.current()
        line = super().formatMessage(record)
        return line if request is None else f"{line} [{request}]"


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        request = request_ids.current()
        if request is not None:
            line["request_id"] = request
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def log_to_stderr(env: Mapping[str, str] = os.environ) -> None:
    """Sends log records to standard error, in the format and from the level of the environment.

    Raises:
        ValueError: the environment names an unknown format or level.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_formatter(env.get(FORMAT_ENV, "text")))
    logging.basicConfig(level=_level(env.get(LEVEL_ENV, "INFO")), handlers=[handler])
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)


def log_if_asked(env: Mapping[str, str] = os.environ) -> None:
    """`log_to_stderr`, if the environment says how: for commands whose output is for people."""
    if FORMAT_ENV in env or LEVEL_ENV in env:
        log_to_stderr(env)


def _formatter(name: str) -> logging.Formatter:
    formats = {"text": TextFormatter, "json": JsonFormatter}
    if name not in formats:
        raise ValueError(f"{FORMAT_ENV}: {name!r} is not one of {', '.join(formats)}")
    return formats[name]()


def _level(name: str) -> int:
    levels = logging.getLevelNamesMapping()
    if name.upper() not in levels:
        raise ValueError(f"{LEVEL_ENV}: {name!r} is not one of {', '.join(levels)}")
    return levels[name.upper()]
