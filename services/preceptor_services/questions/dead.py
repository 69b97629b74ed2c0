"""Jobs that were given up: listed with their reasons, and asked again by an operator."""

from __future__ import annotations

from dataclasses import dataclass

from preceptor_clients.contract.errors import Conflict, NotFound, ProblemDetails
from preceptor_clients.contract.operations import DeadJob, DeadJobs, Replayed
from preceptor_services.kit.clock import Clock
from preceptor_services.questions.sweep import Sweeper
from preceptor_services.store.database import Database
from preceptor_services.store.questions import jobs, tickets


@dataclass(frozen=True, kw_only=True)
class DeadLetters:
    """The jobs whose questions failed after the last delivery."""

    database: Database
    sweeper: Sweeper
    clock: Clock

    async def page(self, after: str, limit: int) -> DeadJobs:
        """Dead jobs after the id `after`; those whose questions were asked again since are gone."""
        async with self.database.read() as conn:
            rows = await jobs.dead(conn, after, limit)
        return DeadJobs(
            jobs=tuple(
                DeadJob(
                    job_id=row.id,
                    service=row.service,
                    kind=row.kind,
                    attempts=row.attempts,
                    created_at=row.created_at,
                    questions=row.num_questions,
                    reason=None if row.reason is None else ProblemDetails(**row.reason),
                )
                for row in rows
            ),
            after=rows[-1].id if len(rows) == limit else None,
        )

    async def replay(self, job_id: str) -> Replayed:
        """Queues a dead job again, as if for the first time; its failed tickets are live again.

        Raises:
            NotFound: there is no such job.
            Conflict: it is not dead, or all its questions were answered, asked again or cancelled.
        """
        now = self.clock.now()
        async with self.database.write() as conn:
            row = (await jobs.find(conn, [job_id])).get(job_id)
            if row is None:
                raise NotFound(f"no job {job_id!r}", field="job_id")
            if row.state != "dead":
                raise Conflict(f"job {job_id} is {row.state} and not dead", field="job_id")
            keys = await jobs.revive(conn, job_id)
            deadlines = await tickets.revive(conn, keys, now)
            if not deadlines:
                raise Conflict(
                    f"nobody waits for the questions of job {job_id}: they were asked again, "
                    "answered or cancelled",
                    field="job_id",
                )
        self.sweeper.expect(deadlines)
        await self.sweeper.reconcile()
        return Replayed(job_id=job_id, questions=len(keys))
