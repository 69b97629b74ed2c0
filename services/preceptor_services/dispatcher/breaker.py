"""A circuit breaker: a service that keeps failing is called less and less often.

Closed: all calls are made. After `threshold` consecutive failures it opens: no call is made for a
pause that doubles with each further failure. After the pause it is half open: one call at a time,
whose success closes it.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class Breaker:
    """The breaker of one service."""

    def __init__(
        self,
        *,
        threshold: int = 3,
        first_pause_s: float = 0.5,
        max_pause_s: float = 15.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._threshold = threshold
        self._first_pause_s = first_pause_s
        self._max_pause_s = max_pause_s
        self._clock = clock
        self._open_until = 0.0
        self.failures = 0
        """Consecutive failures."""

    @property
    def closed(self) -> bool:
        """Whether calls are made without restriction."""
        return self.failures < self._threshold

    def pause_s(self) -> float:
        """Seconds until the next call may be made; 0 when it is closed or half open."""
        return 0.0 if self.closed else max(0.0, self._open_until - self._clock())

    def succeeded(self) -> None:
        """Records a successful call."""
        self.failures = 0

    def failed(self) -> None:
        """Records a call that failed because of the service."""
        self.failures += 1
        doublings = min(self.failures - self._threshold, 30)
        pause_s = min(self._max_pause_s, self._first_pause_s * 2.0**doublings)
        self._open_until = self._clock() + pause_s
