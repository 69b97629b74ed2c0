"""A function of the user's as a tool, in processes of its own.

    def population(city: str) -> str:
        'How many people live in a city.'

Its name, docstring and annotations are what the student is told. It is the user's code, so nothing
restricts it but the time limit: a call over it ends its process with everything that it started.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from preceptor_clients.http.gateway import GatewayClient
from preceptor_trainer.environments.environment import Unreachable
from preceptor_trainer.environments.tools.tool import Tool, ToolFailed

_START_S: Final = 120.0
"""A function may import a large library, on a busy machine."""
_LONGEST_LINE: Final = 64 << 20


@dataclass(frozen=True, kw_only=True)
class FunctionTool:
    """A function."""

    function: str
    """`FILE.py:NAME` or `module:name`."""
    name: str | None = None
    """The tool's name; the function's where absent."""
    description: str | None = None
    """What the student is told; the function's docstring where absent."""
    timeout_s: float = 10.0
    """Time limit of one call."""
    workers: int = 2
    """Processes that call it."""

    def __post_init__(self) -> None:
        if not self.timeout_s > 0:
            raise ValueError(f"timeout_s: {self.timeout_s} is not above 0")
        if self.workers < 1:
            raise ValueError(f"workers: {self.workers} is below 1")

    def tools(self, gateway: GatewayClient | None, run: str) -> _Functions:
        """The tool of one run."""
        del gateway, run
        return _Functions(self)


class _Functions:
    """The processes of one function."""

    def __init__(self, config: FunctionTool) -> None:
        self._config = config
        self._workers = [_Worker(config) for _ in range(config.workers)]
        # Last in, first out: a process that runs already is taken before one that does not.
        self._free: asyncio.LifoQueue[_Worker] = asyncio.LifoQueue()
        self.version = ""

    async def start(self) -> Sequence[Tool]:
        hello = await self._workers[0].start()
        # Another part's failure has the toolbox start again: no process may be free twice.
        self._free = asyncio.LifoQueue()
        for worker in reversed(self._workers):
            self._free.put_nowait(worker)
        self.version = hello["version"]
        tool = Tool(**hello["tool"])
        config = self._config
        named = {"name": config.name, "description": config.description}
        return [replace(tool, **{k: v for k, v in named.items() if v is not None})]

    async def call(self, name: str, arguments: dict[str, Any], call_id: str) -> str:
        del name, call_id
        worker = await self._free.get()
        try:
            return await worker.call(arguments)
        finally:
            self._free.put_nowait(worker)

    async def close(self) -> None:
        for worker in self._workers:
            await worker.stop()


class _Worker:
    """One process; it is started by the first call, and again after each one that was ended."""

    def __init__(self, config: FunctionTool) -> None:
        self._config = config
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> dict[str, Any]:
        await self.stop()
        here = [str(Path.cwd()) if part == "" else part for part in sys.path]
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "preceptor_trainer.environments.tools.function_worker"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LONGEST_LINE,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(here)},
        )
        try:
            hello = await self._asked({"function": self._config.function}, _START_S)
        except TimeoutError:
            hello = {"error": f"was not loaded within {_START_S:g} s"}
        if hello is None or "error" in hello:
            await self.stop()
            why = "its process ended while it was loaded" if hello is None else hello["error"]
            raise Unreachable(f"{self._config.function}: {why}")
        return hello

    async def call(self, arguments: dict[str, Any]) -> str:
        if self._process is None or self._process.returncode is not None:
            await self.start()
        try:
            found = await self._asked({"arguments": arguments}, self._config.timeout_s)
        except TimeoutError:
            await self.stop()
            raise ToolFailed(f"took longer than {self._config.timeout_s:g} s") from None
        except asyncio.CancelledError:
            await self.stop()  # else the next call would read the reply to this one
            raise
        if found is None:
            await self.stop()
            raise ToolFailed("its process ended in the middle of the call")
        if "error" in found:
            raise ToolFailed(found["error"])
        return found["output"]

    async def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

    async def _asked(self, message: dict[str, Any], limit_s: float) -> dict[str, Any] | None:
        """The next line of the process; None where it ended."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(message).encode() + b"\n")
        with contextlib.suppress(ConnectionError):  # its output says that it ended
            await process.stdin.drain()
        async with asyncio.timeout(limit_s):
            line = await process.stdout.readline()
        try:
            return json.loads(line)
        except ValueError:
            return None
