"""Wakes requests that wait for tickets, within this process; nothing polls."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Generator, Iterable


class Watch:
    """One request that waits for some tickets."""

    def __init__(self, ticket_ids: Iterable[str]) -> None:
        self.pending = set(ticket_ids)
        self._empty = asyncio.Event()

    def settle(self, ticket_ids: Iterable[str]) -> None:
        """These need not be waited for any more."""
        self.pending.difference_update(ticket_ids)
        if not self.pending:
            self._empty.set()

    async def wait(self, timeout_s: float) -> None:
        """Returns when nothing is pending or the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()


class Notifier:
    """Who waits for what."""

    def __init__(self) -> None:
        self._watches: dict[str, set[Watch]] = {}

    @contextlib.contextmanager
    def watch(self, ticket_ids: Iterable[str]) -> Generator[Watch]:
        """Watches tickets. Read their states inside, or a change in between would be missed."""
        watched = set(ticket_ids)
        watch = Watch(watched)
        for ticket_id in watched:
            self._watches.setdefault(ticket_id, set()).add(watch)
        try:
            yield watch
        finally:
            for ticket_id in watched:
                watches = self._watches[ticket_id]
                watches.discard(watch)
                if not watches:
                    del self._watches[ticket_id]

    def notify(self, ticket_ids: Iterable[str]) -> None:
        """The states of these tickets have changed for good."""
        for ticket_id in ticket_ids:
            for watch in self._watches.get(ticket_id, ()):
                watch.settle((ticket_id,))
