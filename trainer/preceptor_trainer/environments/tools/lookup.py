"""A table as a tool: a JSON object from keys to what the student reads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from preceptor_clients.http.gateway import GatewayClient
from preceptor_trainer.environments.tools.tool import Tool, ToolFailed


@dataclass(frozen=True, kw_only=True)
class LookupTable:
    """A table in a file."""

    file: Path
    """A JSON object; a value that is no text is given as JSON."""
    name: str = "lookup"
    """The tool's name."""
    description: str = "Looks up a key."
    """What the student is told."""

    def tools(self, gateway: GatewayClient | None, run: str) -> _Table:
        """The tool of one run."""
        del gateway, run
        return _Table(self)


class _Table:
    def __init__(self, config: LookupTable) -> None:
        self._config = config
        self._values = dict[str, Any]()
        self.version = ""

    async def start(self) -> Sequence[Tool]:
        body = self._config.file.read_bytes()
        self.version = hashlib.sha256(body).hexdigest()[:16]
        self._values = read_table(body, self._config.file)
        schema = {
            "type": "object",
            "properties": {"key": {"type": "string"}},
            "required": ["key"],
        }
        config = self._config
        return [Tool(name=config.name, description=config.description, parameters=schema)]

    async def call(self, name: str, arguments: dict[str, Any], call_id: str) -> str:
        del name, call_id
        if list(arguments) != ["key"]:
            raise ToolFailed(f"takes one argument `key`, not {', '.join(arguments) or 'none'}")
        key = str(arguments["key"]).strip()
        if key not in self._values:
            raise ToolFailed(f"there is no {key!r}")
        value = self._values[key]
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    async def close(self) -> None:
        pass


def read_table(body: bytes, file: Path) -> dict[str, Any]:
    """The table in a file.

    Raises:
        ValueError: it is no JSON object.
    """
    try:
        values: Any = json.loads(body)
    except ValueError as error:
        raise ValueError(f"{file}: is no JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{file}: is no JSON object from keys to values")
    return cast("dict[str, Any]", values)
