"""The gateway's readiness and its metrics."""

from __future__ import annotations

from dataclasses import dataclass

from preceptor_clients.contract.errors import ServiceUnavailable
from preceptor_services.corrections.figures import UNKNOWN, Figures
from preceptor_services.jobs.queue import JobQueue
from preceptor_services.kit.metrics import Metrics
from preceptor_services.registry.services import Registry
from preceptor_services.store.database import Database


@dataclass(kw_only=True)
class Readiness:
    """Checks the services that the gateway depends on."""

    database: Database
    queue: JobQueue
    registry: Registry
    corrections: Figures
    metrics: Metrics
    started: bool = False
    """False until the start has finished, and again once the process receives a stop signal."""

    async def check(self) -> None:
        """Returns if database and broker answer.

        Raises:
            ServiceUnavailable: one does not answer, or the process is starting or stopping.
        """
        if not self.started:
            raise ServiceUnavailable("the gateway is starting or stopping", retry_after_s=1.0)
        await self.database.ping()
        if not await self.queue.ping():
            raise ServiceUnavailable(
                "the broker does not answer", field="broker", retry_after_s=1.0
            )

    async def figures(self) -> bytes:
        """All metrics in Prometheus' text format, with the current queue depths."""
        for service in self.registry.names():
            # Without a broker the other metrics are still shown, and the depth is not a stale one.
            try:
                depth = float(await self.queue.depth(service))
            except ServiceUnavailable:
                depth = float("nan")
            self.metrics.queue_depth.labels(service).set(depth)
        await self._count_corrections()
        return self.metrics.render()

    async def _count_corrections(self) -> None:
        try:
            found = await self.corrections.now()
        except ServiceUnavailable:
            found = UNKNOWN
        for state, number in found.items.items():
            self.metrics.correction_items.labels(state).set(number)
        for decision, number in found.versions.items():
            self.metrics.correction_versions.labels(decision).set(number)
        self.metrics.correction_claims.set(found.claims)
