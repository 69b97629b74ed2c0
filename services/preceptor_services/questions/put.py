"""Putting jobs on the streams of their services."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from preceptor_clients.contract.errors import PreceptorError
from preceptor_services.jobs.queue import JobQueue
from preceptor_services.jobs.streams import Entry
from preceptor_services.store.questions.jobs import JobRow

_log = logging.getLogger("preceptor.gateway")


async def put_jobs(queue: JobQueue, rows: Sequence[JobRow]) -> list[str]:
    """Puts jobs in their order, since some must be called in order.

    Returns:
        Ids of the jobs that the queue did not accept: the first of a service and all after it.
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
