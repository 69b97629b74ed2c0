"""Groups jobs into calls of a service. Pure.

Jobs stay whole, because the members of one group share their prompt and an expert computes it once.
Jobs stay in order. Left out: sorting by length, which would save padding but let a steady stream of
short jobs overtake long ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from preceptor_clients.contract.calls import fill_calls
from preceptor_clients.contract.schemas import ServiceLimits


class Batchable(Protocol):
    """The fields of a job that batching reads."""

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
        jobs: The jobs, in the order of their calls.
        limits: Most items and tokens of one call. A job that alone exceeds them gets its own call.
            A call that has enough tokens is closed.

    Returns:
        The jobs of each call, in order. A job that is `alone` shares its call with no other.
    """

    def size(job: J) -> tuple[int, int]:
        # A job that is `alone` fills its call, whatever its size.
        return limits.max_batch if job.alone else job.num_items, job.num_tokens

    most = (limits.max_batch, limits.max_batch_tokens)
    return fill_calls(jobs, size=size, most=most, enough_tokens=limits.enough_tokens)
