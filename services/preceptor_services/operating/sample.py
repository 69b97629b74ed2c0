"""What a running gateway tells of itself at one moment, and rates between two moments."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from prometheus_client.parser import text_string_to_metric_families

from preceptor_clients.contract.listings import RunPlace
from preceptor_clients.contract.schemas import ServiceStatus
from preceptor_clients.http.gateway import GatewayClient

Labels: TypeAlias = frozenset[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The state at one moment."""

    at: float
    """Monotonic time."""
    values: Mapping[str, Mapping[Labels, float]]
    """The series of each metric, by their labels."""
    services: Sequence[ServiceStatus]
    runs: Sequence[RunPlace]
    """The newest run, if there is one."""

    def total(self, name: str, **labels: str) -> float:
        """The sum of the series that have these labels; 0 where there are none."""
        wanted = set(labels.items())
        return sum(v for k, v in self.values.get(name, {}).items() if wanted <= k)

    def gauge(self, name: str, **labels: str) -> float | None:
        """The value of one series; None where it is missing or not known."""
        wanted = set(labels.items())
        found = [v for k, v in self.values.get(name, {}).items() if wanted <= k]
        return found[0] if found and not math.isnan(found[0]) else None


@dataclass(frozen=True)
class Interval:
    """Two samples of one gateway."""

    before: Sample
    now: Sample

    def grown(self, name: str, **labels: str) -> float:
        """By how much a counter grew; a gateway that was restarted counts from 0."""
        now, before = self.now.total(name, **labels), self.before.total(name, **labels)
        return now if now < before else now - before

    def rate(self, name: str, **labels: str) -> float:
        """Growth of a counter per second."""
        return self.grown(name, **labels) / max(1e-3, self.now.at - self.before.at)

    def mean(self, name: str, **labels: str) -> float | None:
        """The mean of what a histogram saw; None where it saw nothing."""
        count = self.grown(f"{name}_count", **labels)
        return self.grown(f"{name}_sum", **labels) / count if count else None

    def labels(self, name: str, label: str, **labels: str) -> list[str]:
        """The values of a label among the series that have the other labels."""
        wanted = set(labels.items())
        series = [k for k in self.now.values.get(name, {}) if wanted <= k]
        return sorted({dict(key)[label] for key in series if label in dict(key)})


def parse_metrics(text: str) -> dict[str, dict[Labels, float]]:
    """Prometheus' text format."""
    values: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            values.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return values


async def take_sample(gateway: GatewayClient) -> Sample:
    """Asks the gateway; the key needs the scope `reader`.

    Raises:
        PreceptorError: it does not answer, or the key has not the scope.
    """
    metrics = await gateway.exchange("GET", "/metrics", timeout_s=10.0)
    services = await gateway.experts()
    runs = await gateway.runs(limit=1)
    return Sample(
        at=time.monotonic(),
        values=parse_metrics(metrics.body.decode()),
        services=services.services,
        runs=runs,
    )
