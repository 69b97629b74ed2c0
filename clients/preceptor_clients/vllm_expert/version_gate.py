"""An engine holds one version of the weights: many callers share it, and a change waits for them.

Callers are served in the order of their requests, so that later callers cannot delay a change for
ever, and the weights never change while a caller uses them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, Literal

Version = str | None
"""None is the weights that the model came with."""
_UNKNOWN: Final = "unknown"


class VersionGate:
    """Gives callers access to the engine with the version that they want.

    Args:
        load: Loads a version into the engine; never called while the engine is in use.
    """

    def __init__(self, load: Callable[[Version], Awaitable[None]]) -> None:
        self._load = load
        self._loaded: Version | Literal["unknown"] = None
        self._turn = asyncio.Lock()
        self._users = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @asynccontextmanager
    async def alone(self) -> AsyncGenerator[None]:
        """Nobody uses the engine while the body runs."""
        async with self._turn:
            await self._idle.wait()
            yield

    @asynccontextmanager
    async def holding(self, version: Version) -> AsyncGenerator[None]:
        """The engine has `version` while the body runs."""
        async with self._turn:
            if version != self._loaded:
                await self._idle.wait()
                # If loading is interrupted, the state of the engine is unknown.
                self._loaded = _UNKNOWN
                await self._load(version)
                self._loaded = version
            self._users += 1
            self._idle.clear()
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._idle.set()
