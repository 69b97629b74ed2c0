"""An engine holds one version of the weights: many may use it, and a change waits for all of them.

Callers pass in the order in which they came, so that a change is neither overtaken for ever nor
made under anybody's hands.
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
    """Lets callers through with the version that they want.

    Args:
        load: Puts a version into the engine; never called while anybody uses it.
    """

    def __init__(self, load: Callable[[Version], Awaitable[None]]) -> None:
        self._load = load
        self._loaded: Version | Literal["unknown"] = None
        self._turn = asyncio.Lock()
        self._users = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @asynccontextmanager
    async def holding(self, version: Version) -> AsyncGenerator[None]:
        """The engine has `version` while the body runs."""
        async with self._turn:
            if version != self._loaded:
                await self._idle.wait()
                # Whoever breaks off a change leaves nobody knows what behind.
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
