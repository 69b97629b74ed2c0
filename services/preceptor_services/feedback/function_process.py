"""A judge's process, on the side of the source: starts `function_worker.py`, sends it calls.

A call that takes too long ends the process and everything that it started; the next call starts a
new one. An async function takes many calls at a time, so that each of them may have been at fault
where their process ends: `Interrupted` means that a call may be repeated.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_START_S: Final = 120.0
"""A judge may import a large library, on a busy machine."""
_GRACE_S: Final = 2.0
"""How much longer an async function has to end by itself."""
_LONGEST_LINE: Final = 256 << 20
_log: Final = logging.getLogger("preceptor.judge")


class JudgeFailed(Exception):
    """The judge gave no feedback on one response; the message says why."""


class CannotTell(Exception):
    """The judge said that it cannot tell right from wrong; the message says why."""


class Interrupted(JudgeFailed):
    """The process was ended in the middle of a call, perhaps because of another call."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What the process says of its function."""

    is_async: bool
    version: str


class JudgeProcess:
    """One process; it is started by the first call, and again after each one that was ended."""

    def __init__(self, function: str, options: dict[str, Any], timeout_s: float) -> None:
        self._settings = {"function": function, "options": options, "timeout_s": timeout_s}
        self._timeout_s = timeout_s
        self._process: asyncio.subprocess.Process | None = None
        self._loaded: Loaded | None = None
        self._reader: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def start(self) -> Loaded:
        """Starts the process unless it runs.

        Raises:
            JudgeFailed: the function cannot be loaded.
        """
        async with self._starting:
            if self._process is None or self._process.returncode is not None:
                self._loaded = await self._start()
            assert self._loaded is not None
            return self._loaded

    async def ask(self, call: dict[str, Any]) -> dict[str, Any]:
        """The reply to one call: `score` and `text`.

        Raises:
            CannotTell: the function cannot tell right from wrong.
            JudgeFailed: the function failed, took too long, or its process ended.
        """
        loaded = await self.start()
        number = next(self._numbers)
        reply = self._waiting[number] = asyncio.get_running_loop().create_future()
        limit_s = self._timeout_s + (_GRACE_S if loaded.is_async else 0)
        try:
            await self._write({"id": number, **call})
            async with asyncio.timeout(limit_s):
                found = await reply
        except TimeoutError:
            await self.stop()
            late = f"took longer than {self._timeout_s:g} s"
            raise (Interrupted if loaded.is_async else JudgeFailed)(late) from None
        except asyncio.CancelledError:
            await self.stop()  # else the next call would wait for the end of this one
            raise
        finally:
            self._waiting.pop(number, None)
        if "cannot_tell" in found:
            raise CannotTell(found["cannot_tell"])
        if "error" in found:
            _log.warning("%s", found.get("traceback", found["error"]))
            raise JudgeFailed(found["error"])
        return found

    async def stop(self) -> None:
        """Ends the process and what it started."""
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        if self._reader is not None and self._reader is not asyncio.current_task():
            await self._reader
            self._reader = None

    async def _start(self) -> Loaded:
        await self.stop()
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "preceptor_services.feedback.function_worker"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LONGEST_LINE,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": _path()},
        )
        await self._write(self._settings)
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(_START_S):
                line = await self._process.stdout.readline()
        except TimeoutError:
            await self.stop()
            raise JudgeFailed(f"was not loaded within {_START_S:g} s") from None
        ended = {"error": "its process ended while it was loaded"}
        hello: dict[str, Any] = json.loads(line) if line else ended
        if "error" in hello:
            await self.stop()
            _log.error("%s", hello.get("traceback", hello["error"]))
            raise JudgeFailed(hello["error"])
        self._reader = asyncio.create_task(self._read(self._process))
        return Loaded(is_async=hello["is_async"], version=hello["version"])

    async def _write(self, message: dict[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        # Where the process has just ended, its reader says so.
        with contextlib.suppress(ConnectionError):
            await self._process.stdin.drain()

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            try:
                reply = json.loads(line)
            except ValueError:
                break  # the process ended in the middle of a line
            waiting = self._waiting.get(reply["id"])
            if waiting is not None and not waiting.done():
                waiting.set_result(reply)
        code = await process.wait()
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(Interrupted(f"the judge's process ended with code {code}"))


def _path() -> str:
    """Python's path of this process, so that the judge's finds what this one finds."""
    here = [str(Path.cwd()) if part == "" else part for part in sys.path]
    return os.pathsep.join(here)
