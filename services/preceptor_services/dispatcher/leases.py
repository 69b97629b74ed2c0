"""The leases of one service's jobs, renewed so that no other dispatcher reclaims them.

Every lease is renewed four times within its duration, so a call may last until its deadline. When
the process crashes or hangs, renewal stops and another dispatcher reclaims the jobs.
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
    """Stream entries that were taken and not yet acknowledged."""

    def __init__(self, queue: JobStreams, consumer: str, lease_s: float) -> None:
        self._queue = queue
        self._consumer = consumer
        self._lease_s = lease_s
        self._held: dict[str, Delivery] = {}
        self._renewed_at = time.monotonic()

    def hold(self, deliveries: Iterable[Delivery]) -> None:
        """Renews these from now on."""
        self._held |= {delivery.entry_id: delivery for delivery in deliveries}

    def holds(self, job_id: str) -> bool:
        """Whether the job is held."""
        return any(delivery.job_id == job_id for delivery in self._held.values())

    def forget(self, deliveries: Iterable[Delivery]) -> None:
        """Stops renewing these: they are done, or another dispatcher has them."""
        for delivery in deliveries:
            self._held.pop(delivery.entry_id, None)

    async def done(self, deliveries: Iterable[Delivery]) -> None:
        """Acknowledges these."""
        finished = list(deliveries)
        self.forget(finished)
        # If the broker is unavailable they are delivered again, and the claim finds them done.
        with contextlib.suppress(ServiceUnavailable):
            await self._queue.done(finished)

    async def renew_forever(self) -> None:
        """Renews the held leases until cancelled."""
        while True:
            await asyncio.sleep(self._lease_s / 4)
            overslept = time.monotonic() - self._renewed_at > self._lease_s
            self._renewed_at = time.monotonic()
            if overslept and self._held:
                # Other dispatchers may hold these now; renewing would take the jobs from them.
                _log.warning(
                    "the leases of %d jobs expired before they were renewed", len(self._held)
                )
                self._held.clear()
            elif self._held:
                with contextlib.suppress(ServiceUnavailable):
                    await self._queue.renew(self._consumer, list(self._held.values()))
