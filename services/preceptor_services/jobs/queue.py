"""What the gateway needs of the queue, and putting jobs on it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final, Protocol

from preceptor_clients.contract.errors import PreceptorError
from preceptor_services.jobs.streams import Entry
from preceptor_services.store.questions.jobs import JobRow

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


async def put_jobs(queue: JobQueue, rows: Sequence[JobRow]) -> list[str]:
    """Puts jobs in their order, since some must be asked so.

    Returns:
        Ids of those that the queue did not take: the first of a service and all after it.
    """
    refused: list[str] = []
    for service in dict.fromkeys(row.service for row in rows):
        own = [row for row in rows if row.service == service]
        entries = [Entry(r.id, r.priority, r.num_tokens, r.exclusive) for r in own]
        try:
            taken = await queue.put_all(service, entries)
        except PreceptorError as error:
            _log.warning("jobs of %s not put: %s", service, error.detail)
            taken = 0
        refused += [row.id for row in own[taken:]]
    return refused


async def announce_cancel(queue: JobQueue, job_ids: Sequence[str]) -> None:
    """Announces cancelled jobs; dispatchers that miss it learn it from their report."""
    if not job_ids:
        return
    try:
        await queue.announce_cancel(job_ids)
    except PreceptorError as error:
        _log.warning("%d cancellations not announced: %s", len(job_ids), error.detail)
