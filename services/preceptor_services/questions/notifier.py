"""Wakes requests that wait for tickets, within this process and without polling.

`neighbours.py` tells other processes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Generator, Iterable, Sequence


class Watch:
    """One request that waits for some tickets."""

    def __init__(self, watches: dict[str, set[Watch]]) -> None:
        self.pending: set[str] = set()
        self._watches = watches
        self._watched: set[str] = set()
        self._nothing_left = asyncio.Event()

    def add(self, ticket_ids: Iterable[str]) -> None:
        """Adds tickets to wait for. Read their states after this call, or a change may be
        missed."""
        for ticket_id in ticket_ids:
            self.pending.add(ticket_id)
            self._watched.add(ticket_id)
            self._watches.setdefault(ticket_id, set()).add(self)

    def settle(self, ticket_ids: Iterable[str]) -> None:
        """Removes tickets from those to wait for."""
        self.pending.difference_update(ticket_ids)
        if not self.pending:
            self._nothing_left.set()

    async def wait(self, timeout_s: float) -> None:
        """Returns when nothing is pending or after the timeout."""
        if not self.pending or self._nothing_left.is_set():
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._nothing_left.wait()

    def give_up(self) -> None:
        """Ends the wait; what is pending stays so."""
        self._nothing_left.set()

    def end(self) -> None:
        """Forgets everything."""
        for ticket_id in self._watched:
            watches = self._watches[ticket_id]
            watches.discard(self)
            if not watches:
                del self._watches[ticket_id]


class Notifier:
    """The watches of all waiting requests, by ticket."""

    def __init__(self) -> None:
        self._watches: dict[str, set[Watch]] = {}
        self._open: set[Watch] = set()
        self._stopping = False
        self.on_settled: Callable[[Sequence[str]], None] | None = None
        """Called with the tickets that this process has settled."""

    @contextlib.contextmanager
    def watch(self, ticket_ids: Iterable[str] = ()) -> Generator[Watch]:
        """Watches tickets during a `with` block."""
        watch = Watch(self._watches)
        watch.add(ticket_ids)
        self._open.add(watch)
        if self._stopping:
            watch.give_up()
        try:
            yield watch
        finally:
            self._open.discard(watch)
            watch.end()

    def stop_waiting(self) -> None:
        """Lets every request return what there is, now and from now on: the process ends."""
        self._stopping = True
        for watch in self._open:
            watch.give_up()

    def notify(self, ticket_ids: Iterable[str]) -> None:
        """Wakes the requests that wait for these tickets, which this process has settled."""
        ids = list(ticket_ids)
        self.wake(ids)
        if self.on_settled is not None and ids:
            self.on_settled(ids)

    def wake(self, ticket_ids: Iterable[str]) -> None:
        """Wakes the requests that wait for these tickets, whose states are final."""
        for ticket_id in ticket_ids:
            for watch in self._watches.get(ticket_id, ()):
                watch.settle((ticket_id,))

    def awaited(self) -> list[str]:
        """The tickets that requests wait for now."""
        return [i for i, watches in self._watches.items() if any(i in w.pending for w in watches)]
