"""Which jobs go together in one call of a service. Pure.

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

    def size(job: J) -> tuple[int, int]:
        # One that goes alone fills its call, whatever it is.
        return limits.max_batch if job.alone else job.num_items, job.num_tokens

    most = (limits.max_batch, limits.max_batch_tokens)
    return fill_calls(jobs, size=size, most=most, enough_tokens=limits.enough_tokens)
