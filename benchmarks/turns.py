"""Two or more ways of doing one thing, timed in turns: what the machine does beside is shared."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

Seconds = list[dict[str, float]]
"""By round and way."""


def in_turns(ways: Mapping[str, Callable[[], Any]], seconds: float) -> tuple[Seconds, Seconds]:
    """As many rounds as fit into `seconds`, at least one: wall-clock and CPU seconds of each."""
    walls: Seconds = []
    cpus: Seconds = []
    began = time.perf_counter()
    while not walls or (time.perf_counter() - began) * (1 + 1 / len(walls)) < seconds:
        # who begins takes turns too
        order = sorted(ways, reverse=len(walls) % 2 == 1)
        took = {way: _timed(ways[way]) for way in order}
        walls.append({way: round(took[way][0], 3) for way in ways})
        cpus.append({way: round(took[way][1], 3) for way in ways})
    return walls, cpus


def _timed(call: Callable[[], Any]) -> tuple[float, float]:
    began, cpu_began = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - began, time.process_time() - cpu_began


def middle(rounds: Seconds, way: str) -> float:
    """Median seconds of a way."""
    return statistics.median(seconds[way] for seconds in rounds)


def times_as_long(rounds: Seconds, slow: str, fast: str) -> float:
    """Median over rounds of what `slow` took beside `fast`."""
    return round(statistics.median(s[slow] / s[fast] for s in rounds), 2)
