"""What the gateway needs of the queue."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final, Protocol

from preceptor_clients.contract.errors import PreceptorError
from preceptor_services.jobs.streams import Entry

MAX_DELIVERIES: Final = 3
"""A job that was handed out so often without an end is given up."""
_log = logging.getLogger("preceptor.gateway")


class JobQueue(Protocol):
    """One stream of job ids per service."""

    async def put_all(self, service: str, entries: Sequence[Entry]) -> int:
        """Appends in order; how many had room. `ServiceUnavailable` while the broker is down."""
        ...

    async def depth(self, service: str) -> int:
        """Entries that are not acknowledged."""
        ...

    async def announce_cancel(self, job_ids: Sequence[str]) -> None:
        """Tells dispatchers that nobody wants these any more."""
        ...

    async def ping(self) -> bool:
        """Whether the broker answers."""
        ...


async def announce_cancel(queue: JobQueue, job_ids: Sequence[str]) -> None:
    """Announces cancelled jobs; dispatchers that miss it learn it from their report."""
    if not job_ids:
        return
    try:
        await queue.announce_cancel(job_ids)
    except PreceptorError as error:
        _log.warning("%d cancellations not announced: %s", len(job_ids), error.detail)
