"""Most requests a second of one caller at this process: a bucket that fills steadily."""

from __future__ import annotations

import time
from collections.abc import Callable


class Rate:
    """Lets `per_s` requests a second pass, and as many at once after a pause."""

    def __init__(self, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_s = per_s
        self._most = max(1.0, per_s)
        self._left = self._most
        self._clock = clock
        self._filled_at = clock()

    def wait_s(self) -> float:
        """0 if a request may pass now, which then counts; else how long until the next may."""
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._filled_at) * self.per_s)
        self._filled_at = now
        if self._left < 1.0:
            return (1.0 - self._left) / self.per_s
        self._left -= 1.0
        return 0.0
