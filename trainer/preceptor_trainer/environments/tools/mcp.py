"""The tools of a server that speaks the Model Context Protocol, with the package `mcp`.

    McpTools(command=("python", "server.py"))        McpTools(url="http://localhost:8000/mcp")

One connection serves a run; where it breaks, the next call opens another. A result that says it is
an error is for the student; a server that does not answer is unreachable. The package is the extra
`mcp`.
"""

# pyright: reportUnknownMemberType=false
from __future__ import annotations

import asyncio
import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from preceptor_clients.http.gateway import GatewayClient
from preceptor_trainer.environments.environment import Unreachable
from preceptor_trainer.environments.tools.tool import Tool, ToolFailed

_START_S: Final = 60.0
_STOP_S: Final = 10.0
_CLOSED: Final = -32000
"""The package's code of an error that means that the connection is closed."""


@dataclass(frozen=True, kw_only=True)
class McpTools:
    """A server: either a command that speaks on its standard streams, or an address."""

    command: tuple[str, ...] = ()
    """Program and arguments."""
    url: str | None = None
    """Address, in the place of a command."""
    only: tuple[str, ...] = ()
    """Tools that the student gets; all where empty."""
    timeout_s: float = 30.0
    """Time limit of one call."""
    environment: dict[str, str] = field(default_factory=dict[str, str], repr=False)
    """Further variables of the program's environment."""

    def __post_init__(self) -> None:
        if bool(self.command) == (self.url is not None):
            raise ValueError("command: a server has either a command or a url")
        if not self.timeout_s > 0:
            raise ValueError(f"timeout_s: {self.timeout_s} is not above 0")

    def tools(self, gateway: GatewayClient | None, run: str) -> _Server:
        """The tools of one run."""
        del gateway, run
        return _Server(self)


def library() -> Any:
    """The package.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return importlib.import_module("mcp")
    except ImportError:
        raise ValueError(
            "tools of MCP servers need the extra `mcp`: pip install 'preceptor[mcp]'"
        ) from None


class _Server:
    """One connection, held by a task of its own: the package closes it where it was opened."""

    def __init__(self, config: McpTools) -> None:
        self._config = config
        self._holder: asyncio.Task[None] | None = None
        self._opening = asyncio.Lock()
        self._client: Any = None
        self._stop = asyncio.Event()
        self.version = ""

    async def start(self) -> Sequence[Tool]:
        client = await self._connected()
        try:
            async with asyncio.timeout(_START_S):
                tools = await _listed(client)
        except Exception as error:  # of the package and of what it uses
            raise self._unreachable(error) from error
        only = self._config.only
        if missing := sorted(set(only) - {tool.name for tool in tools}):
            raise Unreachable(f"{self._place}: has no tool {', '.join(missing)}")
        return [tool for tool in tools if not only or tool.name in only]

    async def call(self, name: str, arguments: dict[str, Any], call_id: str) -> str:
        del call_id
        client, timeout_s = await self._connected(), self._config.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                result = await client.call_tool(name, arguments)
        except TimeoutError:
            raise ToolFailed(f"took longer than {timeout_s:g} s") from None
        except Exception as error:
            if getattr(error, "code", _CLOSED) != _CLOSED:  # the server answered with an error
                raise ToolFailed(str(error)) from error
            await self.close()
            raise self._unreachable(error) from error
        text = _text(result)
        if result.is_error:
            raise ToolFailed(text)
        return text

    async def close(self) -> None:
        holder, self._holder = self._holder, None
        if holder is not None:
            self._stop.set()
            done, _ = await asyncio.wait([holder], timeout=_STOP_S)
            if not done:
                holder.cancel()
            # Its failure is of no interest any more.
            await asyncio.gather(holder, return_exceptions=True)

    @property
    def _is_open(self) -> bool:
        return self._holder is not None and not self._holder.done()

    @property
    def _place(self) -> str:
        return self._config.url or " ".join(self._config.command)

    async def _connected(self) -> Any:
        async with self._opening:
            if not self._is_open:
                await self._connect()
        return self._client

    async def _connect(self) -> None:
        ready: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._stop = asyncio.Event()
        self._holder = asyncio.create_task(self._hold(ready, self._stop))
        try:
            async with asyncio.timeout(_START_S):
                self._client = await asyncio.shield(ready)
        except Exception as error:
            await self.close()
            raise self._unreachable(error) from error

    async def _hold(self, ready: asyncio.Future[Any], stop: asyncio.Event) -> None:
        try:
            async with library().Client(self._server()) as client:
                info = client.server_info
                self.version = f"{info.name} {info.version}" if info else "unknown"
                ready.set_result(client)
                await stop.wait()
        except BaseException as error:
            if not ready.done():
                ready.set_exception(error if isinstance(error, Exception) else OSError("cancelled"))
                return
            raise

    def _server(self) -> Any:
        config = self._config
        if config.url is not None:
            return config.url
        return library().StdioServerParameters(
            command=config.command[0],
            args=list(config.command[1:]),
            env=config.environment or None,
        )

    def _unreachable(self, error: BaseException) -> Unreachable:
        first = _first(error)
        why = str(first) or type(first).__name__
        return Unreachable(f"{self._place}: {why}")


def _first(error: BaseException) -> BaseException:
    """The error itself, or the first of a group."""
    inner: tuple[BaseException, ...] = getattr(error, "exceptions", ())
    return _first(inner[0]) if inner else error


async def _listed(client: Any) -> list[Tool]:
    found: list[Tool] = []
    cursor: str | None = None
    while True:
        page = await client.list_tools(cursor=cursor) if cursor else await client.list_tools()
        found += [
            Tool(
                name=tool.name,
                description=tool.description or tool.name,
                parameters=dict(tool.input_schema),
            )
            for tool in page.tools
        ]
        cursor = page.next_cursor
        if not cursor:
            return found


def _text(result: Any) -> str:
    """The texts of a result; other content is named by its kind."""
    parts = [
        part.text if part.type == "text" else f"[{part.type}]" for part in result.content or ()
    ]
    return "\n".join(parts)
