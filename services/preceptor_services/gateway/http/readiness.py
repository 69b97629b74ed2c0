"""The gateway's readiness and its metrics."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from preceptor_clients.contract.errors import ServiceUnavailable
from preceptor_services.corrections.figures import UNKNOWN, Figures
from preceptor_services.jobs.queue import JobQueue
from preceptor_services.kit.clock import Clock
from preceptor_services.kit.metrics import Metrics
from preceptor_services.registry.services import Registry
from preceptor_services.store.database import Database
from preceptor_services.store.questions import jobs

_log = logging.getLogger("preceptor.gateway")
_NAN: Final = float("nan")


@dataclass(kw_only=True)
class Readiness:
    """Checks the services that the gateway depends on."""

    database: Database
    queue: JobQueue
    registry: Registry
    corrections: Figures
    metrics: Metrics
    clock: Clock
    dispatcher_seen_at: float | None = None
    """Server time of the last call of a dispatcher."""
    broker_answered: bool = True
    """As it was last checked."""
    started: bool = False
    """False until the start has finished, and again once the process receives a stop signal."""

    async def check(self) -> dict[str, str]:
        """What was checked, if database and broker answer.

        Services and dispatchers are told but do not decide: the gateway accepts questions without
        them, and they start after it.

        Raises:
            ServiceUnavailable: one does not answer, or the process is starting or stopping.
        """
        if not self.started:
            raise ServiceUnavailable("the gateway is starting or stopping", retry_after_s=1.0)
        await self.database.ping()
        if not await self._hear_broker():
            raise ServiceUnavailable(
                "the broker does not answer", field="broker", retry_after_s=1.0
            )
        statuses = self.registry.statuses()
        num_ready = sum(status.state == "ready" for status in statuses)
        seen_s = self._dispatcher_seen_s()
        return {
            "database": "answers",
            "broker": "answers",
            "services": f"{num_ready} of {len(statuses)} ready",
            "dispatchers": "none has called" if seen_s is None else f"called {seen_s:.0f} s ago",
        }

    async def _hear_broker(self) -> bool:
        """Whether the broker answers; the log has each change."""
        answers = await self.queue.ping()
        if answers != self.broker_answered:
            level = logging.INFO if answers else logging.ERROR
            _log.log(level, "the broker %s", "answers" if answers else "does not answer")
        self.broker_answered = answers
        return answers

    def saw_dispatcher(self) -> None:
        """Notes the call of a dispatcher."""
        self.dispatcher_seen_at = self.clock.now()

    def _dispatcher_seen_s(self) -> float | None:
        at = self.dispatcher_seen_at
        return None if at is None else max(0.0, self.clock.now() - at)

    async def figures(self) -> bytes:
        """All metrics in Prometheus' text format, with the current state of queues and services."""
        seen_s = self._dispatcher_seen_s()
        self.metrics.dispatcher_seen_seconds.set(_NAN if seen_s is None else seen_s)
        oldest = await self._oldest()
        depths = await self._depths()
        for status in self.registry.statuses():
            service = status.name
            ready = self.metrics.service_ready.labels(service, status.role)
            ready.set(status.state == "ready")
            age_s = 0.0 if oldest is not None else _NAN
            if oldest is not None and service in oldest:
                age_s = max(0.0, self.clock.now() - oldest[service])
            self.metrics.queue_oldest_seconds.labels(service).set(age_s)
            self.metrics.queue_depth.labels(service).set(depths.get(service, _NAN))
        await self._count_corrections()
        return self.metrics.render()

    async def _depths(self) -> dict[str, float]:
        """The depth of every queue; none of them without a broker, of which no stale one is shown.

        The other metrics are still shown then, after one wait for it and not one for each service.
        """
        names = [status.name for status in self.registry.statuses()]
        try:
            return {name: float(await self.queue.depth(name)) for name in names}
        except ServiceUnavailable:
            return {}

    async def _oldest(self) -> dict[str, float] | None:
        try:
            async with self.database.read() as conn:
                return await jobs.oldest(conn)
        except ServiceUnavailable:
            return None

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
