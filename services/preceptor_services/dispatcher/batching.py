"""Which jobs go together in one call of a service. Pure.

Jobs stay whole, because the members of one group share their prompt and an expert computes it once.
Jobs stay in order, and a call is closed as soon as the next job does not fit: looking further for a
smaller one would let the big ones wait. Left out: sorting by length, which would save padding but
let a steady stream of short jobs overtake long ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, TypeVar

from preceptor_clients.contract.schemas import ServiceLimits


class Batchable(Protocol):
    """What batching reads of a job."""

    @property
    def num_items(self) -> int: ...
    @property
    def num_tokens(self) -> int: ...
    @property
    def alone(self) -> bool: ...


J = TypeVar("J", bound=Batchable)


def plan_calls(jobs: Sequence[J], limits: ServiceLimits) -> list[list[J]]:
    """Splits jobs into calls.

    Args:
        jobs: In the order in which they are to be asked.
        limits: Most items and tokens of one call; a job that is over by itself goes alone. A call
            that has enough tokens is closed.

    Returns:
        The jobs of each call, in order. A job that is `alone` shares its call with no other.
    """
    calls: list[list[J]] = []
    room_items = room_tokens = 0
    for job in jobs:
        if job.alone or job.num_items > room_items or job.num_tokens > room_tokens:
            calls.append([])
            room_items, room_tokens = limits.max_batch, limits.max_batch_tokens
        calls[-1].append(job)
        room_items = 0 if job.alone else room_items - job.num_items
        room_tokens -= job.num_tokens
        if limits.max_batch_tokens - room_tokens >= (limits.enough_tokens or math.inf):
            room_items = 0
    return calls
