"""Counters for Prometheus, in a registry of this application.

The work of dispatchers is counted here too: every call of a service arrives as one report. So the
figures of all dispatchers are in one place, and dispatchers need no port.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from preceptor_clients.contract.errors import AnswerRefused, PreceptorError
from preceptor_clients.contract.schemas import PrefixAnswer, StepRecord
from preceptor_clients.contract.unread import array_of

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300)
_QUESTIONS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_TOKENS = (64, 256, 1024, 4096, 16_384, 65_536, 262_144)
_MASS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
_MOST_REASONS: Final = 64
_MOST_RUNS: Final = 100
_MOST_PHASES: Final = 16
_PHASE: Final = "seconds/"


class Metrics:
    """The metrics of the gateway."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._reasons: set[str] = set()
        self._runs: dict[str, set[str]] = {}
        ProcessCollector(registry=self._registry)
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

        self.refusals = Counter(
            "preceptor_refusals",
            "Questions without an answer by service, stage (submission or answer) and reason: the "
            "problem's code, for a refused answer with the failed check.",
            ("service", "stage", "reason"),
            registry=self._registry,
        )
        self.positions = Counter(
            "preceptor_positions",
            "Positions of accepted answers of experts.",
            ("service",),
            registry=self._registry,
        )
        self.captured_mass = Histogram(
            "preceptor_captured_mass",
            "Probability that the entries of an answer hold, the mean over its positions.",
            ("service",),
            buckets=_MASS,
            registry=self._registry,
        )
        self.cost = Counter(
            "preceptor_cost",
            "Price of the accepted answers, in the deployment's unit.",
            ("service",),
            registry=self._registry,
        )
        self.jobs = Counter(
            "preceptor_jobs",
            "Claims of jobs by service and end: done, queued (for another attempt) or dead.",
            ("service", "state"),
            registry=self._registry,
        )

        self.queue_depth = Gauge(
            "preceptor_queue_depth",
            "Jobs on the streams of a service, waiting and claimed, at the time of the request.",
            ("service",),
            registry=self._registry,
        )
        self.queue_oldest_seconds = Gauge(
            "preceptor_queue_oldest_seconds",
            "Age of the oldest unfinished job of a service, at the time of the request, or 0.",
            ("service",),
            registry=self._registry,
        )
        self.service_ready = Gauge(
            "preceptor_service_ready",
            "1 if the service answers and passed its inspection, else 0.",
            ("service", "role"),
            registry=self._registry,
        )
        self.dispatcher_seen_seconds = Gauge(
            "preceptor_dispatcher_seen_seconds",
            "Time since this gateway was last called by a dispatcher; NaN before the first call.",
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
        self.job_seconds = Histogram(
            "preceptor_job_seconds",
            "From putting a job on its stream to its accepted report: queue, call and report.",
            ("service",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.call_tokens = Histogram(
            "preceptor_call_tokens",
            "Tokens of the questions in a call of a service.",
            ("service",),
            buckets=_TOKENS,
            registry=self._registry,
        )
        self.call_questions = Histogram(
            "preceptor_call_questions",
            "Questions in a call of a service.",
            ("service",),
            buckets=_QUESTIONS,
            registry=self._registry,
        )

        self.run_steps = Counter(
            "preceptor_run_steps",
            "Optimiser steps that a run has recorded at this gateway.",
            ("run",),
            registry=self._registry,
        )
        self.run_rollouts = Counter(
            "preceptor_run_rollouts",
            "Rollouts that the recorded steps of a run consumed.",
            ("run",),
            registry=self._registry,
        )
        self.run_seconds = Counter(
            "preceptor_run_seconds",
            "Time that the recorded steps of a run took, by phase, as its trainer measured it.",
            ("run", "phase"),
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

    def count_refusal(self, service: str, stage: str, error: PreceptorError) -> None:
        """Adds to `refusals`."""
        reason = f"{error.code}/{error.check}" if isinstance(error, AnswerRefused) else error.code
        # A service may name any check, and each would be a series of its own.
        if len(self._reasons) < _MOST_REASONS:
            self._reasons.add(reason)
        reason = reason if reason in self._reasons else error.code
        self.refusals.labels(service, stage, reason).inc()

    def count_step(self, record: StepRecord) -> None:
        """Adds a recorded step of a run; the series of the runs that trained last are kept."""
        run = record.run
        phases = [name for name in record.metrics if name.startswith(_PHASE)][:_MOST_PHASES]
        self._runs[run] = self._runs.pop(run, set()) | {p.removeprefix(_PHASE) for p in phases}
        if len(self._runs) > _MOST_RUNS:
            self._forget_run(next(iter(self._runs)))
        self.run_steps.labels(run).inc()
        self.run_rollouts.labels(run).inc(len(record.consumed))
        for name in phases:
            seconds = max(0.0, record.metrics[name])
            self.run_seconds.labels(run, name.removeprefix(_PHASE)).inc(seconds)

    def _forget_run(self, run: str) -> None:
        for phase in self._runs.pop(run):
            self.run_seconds.remove(run, phase)
        self.run_steps.remove(run)
        self.run_rollouts.remove(run)

    def count_prefixes(self, service: str, answers: Sequence[PrefixAnswer]) -> None:
        """Adds an expert's accepted answers to `positions` and `captured_mass`."""
        if not answers:
            return
        mask_P = np.concatenate([array_of(answer.mask_P) for answer in answers])
        tail_P = np.concatenate([array_of(answer.tail_P) for answer in answers])
        starts = np.cumsum([0, *(len(answer.mask_P) for answer in answers)])[:-1]
        # `reduceat` needs at least one row of each answer; a response is never empty.
        num_rows = np.add.reduceat(mask_P, starts, dtype=np.int64)
        tails = np.add.reduceat(tail_P * mask_P, starts)
        self.positions.labels(service).inc(len(mask_P))
        observe = self.captured_mass.labels(service).observe
        for mass in (1.0 - tails / np.maximum(num_rows, 1))[num_rows > 0].tolist():
            observe(mass)

    def render(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self._registry)
