"""Counters for Prometheus, in a registry of this application's own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest


class Metrics:
    """What the gateway counts."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "preceptor_requests",
            "Requests by route and status.",
            ("method", "route", "status"),
            registry=self._registry,
        )
        self.seconds = Histogram(
            "preceptor_request_seconds",
            "Time to the reply, waiting on purpose included.",
            ("route",),
            registry=self._registry,
        )
        self.tickets = Counter(
            "preceptor_tickets",
            "Submissions by service and what became of them at the door.",
            ("service", "outcome"),
            registry=self._registry,
        )
        self.answers = Counter(
            "preceptor_answers",
            "Questions by service and how they ended.",
            ("service", "outcome"),
            registry=self._registry,
        )

    def render(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self._registry)
