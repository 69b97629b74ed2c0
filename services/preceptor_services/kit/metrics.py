"""Counters for Prometheus, in a registry of this application.

The work of dispatchers is counted here too: every call of a service arrives as one report. So the
figures of all dispatchers are in one place, and dispatchers need no port.
"""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300)
_QUESTIONS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The metrics of the gateway."""

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
            "Time to the reply, requested waiting (wait_ms) included.",
            ("route",),
            registry=self._registry,
        )
        self.tickets = Counter(
            "preceptor_tickets",
            "Submissions by service and the result of their check.",
            ("service", "outcome"),
            registry=self._registry,
        )
        self.answers = Counter(
            "preceptor_answers",
            "Questions by service and how they ended.",
            ("service", "outcome"),
            registry=self._registry,
        )

        self.queue_depth = Gauge(
            "preceptor_queue_depth",
            "Jobs on the streams of a service, waiting and claimed, at the time of the request.",
            ("service",),
            registry=self._registry,
        )
        self.queued_seconds = Histogram(
            "preceptor_queued_seconds",
            "From putting a job on its stream to its claim.",
            ("service",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.call_seconds = Histogram(
            "preceptor_call_seconds",
            "Time that a call of a service took, as its dispatcher saw it.",
            ("service",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.call_questions = Histogram(
            "preceptor_call_questions",
            "Questions in a call of a service.",
            ("service",),
            buckets=_QUESTIONS,
            registry=self._registry,
        )

        self.correction_items = Gauge(
            "preceptor_correction_items",
            "Correction items, by state, at the time of the request.",
            ("state",),
            registry=self._registry,
        )
        self.correction_versions = Gauge(
            "preceptor_correction_versions",
            "Corrections submitted by people, by decision, at the time of the request.",
            ("decision",),
            registry=self._registry,
        )
        self.correction_claims = Gauge(
            "preceptor_correction_claims",
            "Correction items claimed by people, at the time of the request.",
            registry=self._registry,
        )

    def count_answers(self, tally: Mapping[tuple[str, str], int]) -> None:
        """Adds to `answers`: how many, by service and outcome."""
        for labels, number in tally.items():
            self.answers.labels(*labels).inc(number)

    def render(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self._registry)
