"""The gateway's interface of the queue."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from typing import Final, Protocol

from preceptor_clients.contract.errors import PreceptorError
from preceptor_services.jobs.streams import Entry

MAX_FAILURES: Final = 3
"""A job is given up after so many deliveries that dispatchers reported as failed."""
MAX_CLAIMS: Final = 6
"""And after so many deliveries in all: what kills its dispatcher is reported by nobody. More than
`MAX_FAILURES`, since dispatchers are also killed by what has nothing to do with their jobs."""
_log = logging.getLogger("preceptor.gateway")


class JobQueue(Protocol):
    """One stream of job ids per service."""

    async def put_all(self, service: str, entries: Sequence[Entry]) -> int:
        """Appends in order; returns how many fitted. `ServiceUnavailable` if the broker is down."""
        ...

    async def depth(self, service: str) -> int:
        """Entries that are not acknowledged."""
        ...

    async def announce_cancel(self, job_ids: Sequence[str]) -> None:
        """Tells dispatchers that these jobs are cancelled."""
        ...

    async def announce_settled(self, ticket_ids: Sequence[str]) -> None:
        """Tells other gateway processes that these tickets are settled."""
        ...

    def settled(self) -> AsyncIterator[str]:
        """Tickets that other gateway processes announce."""
        ...

    async def ping(self) -> bool:
        """Whether the broker answers."""
        ...


async def announce_cancel(queue: JobQueue, job_ids: Sequence[str]) -> None:
    """Announces cancelled jobs; a dispatcher that misses it learns it from its report."""
    if not job_ids:
        return
    try:
        await queue.announce_cancel(job_ids)
    except PreceptorError as error:
        _log.warning("%d cancellations not announced: %s", len(job_ids), error.detail)
