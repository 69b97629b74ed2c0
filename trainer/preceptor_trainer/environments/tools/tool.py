"""What a tool is: a name, a description, a schema of its arguments, and a call.

A call gives a text. `ToolFailed` is a text too: the student reads it and may call again.
`Unreachable` is no answer at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from preceptor_clients.http.gateway import GatewayClient


class ToolFailed(Exception):
    """The tool was asked and failed; the message is for the student."""


@dataclass(frozen=True, kw_only=True)
class Tool:
    """One tool, as the student is told of it."""

    name: str
    description: str
    parameters: dict[str, Any]
    """JSON schema of the arguments, an object."""

    def described(self) -> dict[str, Any]:
        """As chat templates take it in their variable `tools`."""
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": self.parameters,
        }
        return {"type": "function", "function": function}


class Tools(Protocol):
    """Some tools that are started and ended together."""

    async def start(self) -> Sequence[Tool]:
        """Starts what they need; returns the tools.

        Raises:
            Unreachable: they cannot be started.
        """
        ...

    @property
    def version(self) -> str:
        """Changes with what they answer, as far as that is known; empty before `start`."""
        ...

    async def call(self, name: str, arguments: dict[str, Any], call_id: str) -> str:
        """What the tool says.

        Raises:
            ToolFailed: it failed, or took too long.
            Unreachable: it could not be asked.
        """
        ...

    async def close(self) -> None:
        """Ends what was started."""
        ...


class OffersTools(Protocol):
    """The configuration of some tools."""

    def tools(self, gateway: GatewayClient | None, run: str) -> Tools:
        """The tools of one run; without a gateway they can be started, and not called."""
        ...


def one_argument(tool: Tool) -> str:
    """Name of the argument of a tool that is called with a text alone.

    Raises:
        ToolFailed: it has not exactly one that is needed.
    """
    names: list[str] = list(tool.parameters.get("required", tool.parameters.get("properties", {})))
    if len(names) != 1:
        raise ToolFailed(f"{tool.name} takes {len(names)} arguments: {', '.join(names) or 'none'}")
    return names[0]
