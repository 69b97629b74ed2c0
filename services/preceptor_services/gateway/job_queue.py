"""What the gateway needs of the queue, and putting jobs on it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final, Protocol

from preceptor_clients.errors import PreceptorError
from preceptor_services.store.jobs import JobRow

MAX_DELIVERIES: Final = 3
"""A job that was handed out so often without an end is given up."""
_log = logging.getLogger("preceptor.gateway")


class JobQueue(Protocol):
    """One stream of job ids per service."""

    async def put(
        self, service: str, job_id: str, *, priority: int, tokens: int, exclusive: bool
    ) -> None:
        """Raises `QueueFull`, or `ServiceUnavailable` while the broker is down."""
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


async def put_jobs(queue: JobQueue, rows: Sequence[JobRow]) -> list[str]:
    """Puts jobs one after the other, since some must be asked in order.

    Returns:
        Ids of those that the queue did not take; after the first the rest is not tried.
    """
    for number, row in enumerate(rows):
        try:
            await queue.put(
                row.service,
                row.id,
                priority=row.priority,
                tokens=row.num_tokens,
                exclusive=row.exclusive,
            )
        except PreceptorError as error:
            _log.warning("jobs of %s not put: %s", row.service, error.detail)
            return [left.id for left in rows[number:]]
    return []


async def announce_cancel(queue: JobQueue, job_ids: Sequence[str]) -> None:
    """Announces cancelled jobs; dispatchers that miss it learn it from their report."""
    if not job_ids:
        return
    try:
        await queue.announce_cancel(job_ids)
    except PreceptorError as error:
        _log.warning("%d cancellations not announced: %s", len(job_ids), error.detail)
