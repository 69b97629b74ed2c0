"""The gateway's parts, built once per process; each route gets only the part that it needs."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Final, Self

from fastapi import FastAPI

from preceptor_clients.contract.deployment import Deployment
from preceptor_clients.contract.errors import PreceptorError
from preceptor_services.corrections.figures import Figures
from preceptor_services.corrections.parts import Corrections
from preceptor_services.gateway.http.readiness import Readiness
from preceptor_services.jobs.queue import JobQueue
from preceptor_services.kit.array_blobs import ArrayBlobs
from preceptor_services.kit.blobs import BlobStore
from preceptor_services.kit.clock import Clock
from preceptor_services.kit.metrics import Metrics
from preceptor_services.kit.settings import read_secret
from preceptor_services.provenance.audit import FILE, AuditLog
from preceptor_services.provenance.records import RecordKeeper
from preceptor_services.questions.parts import Questions
from preceptor_services.registry.keyring import Keyring
from preceptor_services.registry.services import Connect, Registry
from preceptor_services.registry.tokenizers import Tokenizers
from preceptor_services.registry.weight_offers import WeightOffers
from preceptor_services.registry.weights import WeightVersions
from preceptor_services.store.database import Database

_KEYS_S: Final = 2.0
_log = logging.getLogger("preceptor.gateway")


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Everything that runs in a gateway process."""

    database: Database
    clock: Clock
    metrics: Metrics
    max_body_bytes: int
    readiness: Readiness
    keyring: Keyring
    audit: AuditLog
    registry: Registry
    tokenizers: Tokenizers
    weights: WeightVersions
    weight_offers: WeightOffers
    questions: Questions
    records: RecordKeeper
    corrections: Corrections
    _background: list[asyncio.Task[None]] = field(default_factory=list[asyncio.Task[None]])

    @classmethod
    def build(
        cls,
        settings: Deployment,
        database: Database,
        blobs: BlobStore,
        queue: JobQueue,
        connect: Connect,
        clock: Clock,
    ) -> Self:
        """Builds the parts without starting them."""
        hash_key = read_secret(settings.gateway.hash_key_file)
        metrics, array_blobs = Metrics(), ArrayBlobs(blobs)
        registry = Registry(database, connect, clock, settings)
        weights = WeightVersions(
            database=database, clock=clock, roots=settings.gateway.weights_roots
        )
        return cls(
            database=database,
            clock=clock,
            metrics=metrics,
            max_body_bytes=settings.gateway.max_body_bytes,
            readiness=Readiness(
                database=database,
                queue=queue,
                registry=registry,
                corrections=Figures(database=database, clock=clock),
                metrics=metrics,
                clock=clock,
            ),
            keyring=Keyring(hash_key, settings.keys, clock),
            audit=AuditLog(database=database, clock=clock, file=settings.gateway.blobs / FILE),
            registry=registry,
            tokenizers=Tokenizers(registry),
            weights=weights,
            weight_offers=WeightOffers(registry, weights),
            questions=Questions.build(
                database=database,
                blobs=blobs,
                queue=queue,
                registry=registry,
                clock=clock,
                metrics=metrics,
                max_queue=settings.gateway.max_queue,
                most_tokens={
                    name: key.max_tokens_in_flight
                    for name, key in settings.keys.items()
                    if key.max_tokens_in_flight is not None
                },
            ),
            records=RecordKeeper(
                database=database,
                array_blobs=array_blobs,
                blobs=blobs,
                clock=clock,
                metrics=metrics,
            ),
            corrections=Corrections.build(
                database=database,
                blobs=blobs,
                array_blobs=array_blobs,
                clock=clock,
                hash_key=hash_key,
            ),
        )

    def attach(self, app: FastAPI) -> None:
        """Stores each part in `app.state`, where the routes' dependencies read it."""
        for name in (
            *("readiness", "keyring", "registry", "tokenizers", "weights", "weight_offers"),
            *("questions", "records", "corrections", "audit", "max_body_bytes"),
        ):
            setattr(app.state, name, getattr(self, name))

    async def start(self) -> None:
        """Migrates the tables and starts the background work."""
        await self.database.migrate()
        await self.database.connect_all()
        await self._store_keys()
        await self.registry.start()
        self.questions.sweeper.start()
        self.questions.neighbours.start()
        self._background.append(asyncio.create_task(self._follow_keys(), name="keys"))
        self.readiness.started = True

    async def stop(self) -> None:
        """Stops the background work."""
        self.readiness.started = False
        await self.questions.neighbours.stop()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self.questions.sweeper.stop()
        await self.registry.stop()
        await self.tokenizers.stop()

    async def _store_keys(self) -> None:
        for name, change in await self.keyring.store(self.database, self.clock.now()):
            await self.audit.record("gateway", f"key.{change}", name)

    async def _follow_keys(self) -> None:
        """Reads key files that changed, so that a key is rotated or replaced without a restart."""
        stored = True
        while True:
            await asyncio.sleep(_KEYS_S)
            try:
                if await asyncio.to_thread(self.keyring.refresh) or not stored:
                    stored = False
                    await self._store_keys()
                    stored = True
            except PreceptorError as error:
                _log.warning("the changed keys are valid, but not on record yet: %s", error.detail)
