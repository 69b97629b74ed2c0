"""The gateway's parts, built once per process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Self

from fastapi import Depends, Request

from preceptor_services.gateway.http.auth import Keyring
from preceptor_services.jobs.queue import JobQueue
from preceptor_services.kit.array_blobs import Packs
from preceptor_services.kit.blobs import BlobStore
from preceptor_services.kit.clock import Clock
from preceptor_services.kit.metrics import Metrics
from preceptor_services.kit.settings import Settings, read_secret
from preceptor_services.provenance.records import RecordKeeper
from preceptor_services.questions.claim import Claiming
from preceptor_services.questions.late_answers import LateAnswers
from preceptor_services.questions.notifier import Notifier
from preceptor_services.questions.outcomes import Outcomes
from preceptor_services.questions.report import Reporting
from preceptor_services.questions.submit import Submissions
from preceptor_services.questions.sweep import Upkeep
from preceptor_services.registry.services import Connect, Registry
from preceptor_services.registry.tokenizers import Tokenising
from preceptor_services.store.database import Database


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """Everything that a route may need."""

    settings: Settings
    database: Database
    blobs: BlobStore
    queue: JobQueue
    clock: Clock
    metrics: Metrics
    keyring: Keyring
    packs: Packs
    registry: Registry
    tokenising: Tokenising
    upkeep: Upkeep
    submissions: Submissions
    outcomes: Outcomes
    claiming: Claiming
    reporting: Reporting
    late_answers: LateAnswers
    notifier: Notifier
    records: RecordKeeper

    @classmethod
    def build(
        cls,
        settings: Settings,
        database: Database,
        blobs: BlobStore,
        queue: JobQueue,
        connect: Connect,
        clock: Clock,
    ) -> Self:
        """Puts the parts together; nothing runs yet."""
        metrics, notifier, packs = Metrics(), Notifier(), Packs(blobs)
        registry = Registry(database, connect, clock, settings)
        upkeep = Upkeep(database, queue, notifier, clock)
        return cls(
            settings=settings,
            database=database,
            blobs=blobs,
            queue=queue,
            clock=clock,
            metrics=metrics,
            keyring=Keyring(read_secret(settings.gateway.hash_key_file), settings.keys),
            packs=packs,
            registry=registry,
            tokenising=Tokenising(registry),
            upkeep=upkeep,
            submissions=Submissions(
                database=database,
                queue=queue,
                registry=registry,
                upkeep=upkeep,
                clock=clock,
                metrics=metrics,
                max_queue=settings.gateway.max_queue,
            ),
            outcomes=Outcomes(database, packs),
            claiming=Claiming(
                database=database,
                blobs=blobs,
                notifier=notifier,
                clock=clock,
                metrics=metrics,
            ),
            reporting=Reporting(
                database=database,
                queue=queue,
                packs=packs,
                registry=registry,
                notifier=notifier,
                clock=clock,
                metrics=metrics,
            ),
            late_answers=LateAnswers(
                database=database,
                packs=packs,
                registry=registry,
                notifier=notifier,
                clock=clock,
                metrics=metrics,
            ),
            notifier=notifier,
            records=RecordKeeper(database=database, packs=packs, clock=clock),
        )

    async def start(self) -> None:
        """Brings the tables up to date and begins the background work."""
        await self.database.migrate()
        await self.database.connect_all()
        await self.keyring.store(self.database, self.clock.now())
        await self.registry.start()
        self.upkeep.start()

    async def stop(self) -> None:
        """Ends the background work."""
        await self.upkeep.stop()
        await self.registry.stop()
        await self.tokenising.stop()


async def _gateway(request: Request) -> Gateway:
    return request.app.state.gateway


Parts = Annotated[Gateway, Depends(_gateway)]
