"""Server time: seconds since the epoch that never jump; a changed wall clock moves no deadline."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Tells server time; tests hand in one that they move."""

    def now(self) -> float: ...


class ServerClock:
    """The wall clock at the start, plus monotonic time since."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._offset + time.monotonic()
