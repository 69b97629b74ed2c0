"""What a dispatcher holds of one service's streams, and keeping it from being reclaimed.

Everything held is renewed four times a lease, so a call may last as long as its deadline allows;
when the process dies or hangs, renewing stops and another dispatcher takes over.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable

from preceptor_clients.contract.errors import ServiceUnavailable
from preceptor_services.jobs.streams import Delivery, JobStreams

_log = logging.getLogger("preceptor.dispatcher")


class Leases:
    """Entries taken and not yet acknowledged."""

    def __init__(self, queue: JobStreams, consumer: str, lease_s: float) -> None:
        self._queue = queue
        self._consumer = consumer
        self._lease_s = lease_s
        self._held: dict[str, Delivery] = {}
        self._renewed_at = time.monotonic()

    def hold(self, deliveries: Iterable[Delivery]) -> None:
        """These are ours from now on."""
        self._held |= {delivery.entry_id: delivery for delivery in deliveries}

    def holds(self, job_id: str) -> bool:
        """Whether the job is among what is held."""
        return any(delivery.job_id == job_id for delivery in self._held.values())

    def forget(self, deliveries: Iterable[Delivery]) -> None:
        """No longer renews these: they are done, or somebody else's."""
        for delivery in deliveries:
            self._held.pop(delivery.entry_id, None)

    async def done(self, deliveries: Iterable[Delivery]) -> None:
        """Acknowledges these."""
        finished = list(deliveries)
        self.forget(finished)
        # If the broker is away they come back later, and the claim finds that they are done.
        with contextlib.suppress(ServiceUnavailable):
            await self._queue.done(finished)

    async def renew_forever(self) -> None:
        """Runs beside the work."""
        while True:
            await asyncio.sleep(self._lease_s / 4)
            overslept = time.monotonic() - self._renewed_at > self._lease_s
            self._renewed_at = time.monotonic()
            if overslept:
                # Others may hold these by now; to renew them would be to take them back.
                _log.warning("the lease of %d jobs was missed", len(self._held))
                self._held.clear()
            elif self._held:
                with contextlib.suppress(ServiceUnavailable):
                    await self._queue.renew(self._consumer, list(self._held.values()))
