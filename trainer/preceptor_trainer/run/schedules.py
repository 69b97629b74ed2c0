"""Schedules: how collecting (sample, feedback, experts, targets) and training interleave.

`Deterministic` is the mode of the quickstart and of the resume tests: staleness 0, one group is one
expert batch, so the same machine, seed and versions give the same numbers. `Overlapped` collects
the next batches while one trains; it guarantees the accounting, not equal numbers. Objectives weigh
rollouts that an older policy sampled by the log-probs that it sampled them with.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

B = TypeVar("B")


class Schedule(Protocol):
    """Drives the steps of a run."""

    @property
    def batching(self) -> Literal["merge", "group"]: ...

    async def drive(
        self,
        steps: Iterable[int],
        collect: Callable[[int], Awaitable[B]],
        train: Callable[[B], Awaitable[bool]],
    ) -> None:
        """Collects and trains the steps in order.

        Args:
            steps: Of the run, rising.
            collect: Step to its batch.
            train: Trains on a batch; False where the run ends instead, and nothing follows.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Deterministic:
    """One step after the other."""

    batching: Literal["merge", "group"] = "group"
    """How experts are asked: `group` makes each group of attempts one call, in order."""

    async def drive(
        self,
        steps: Iterable[int],
        collect: Callable[[int], Awaitable[B]],
        train: Callable[[B], Awaitable[bool]],
    ) -> None:
        """Collects and trains in turn."""
        for step in steps:
            if not await train(await collect(step)):
                return


@dataclass(frozen=True, kw_only=True)
class Overlapped:
    """Collects up to `staleness` steps ahead of the optimiser."""

    staleness: int = 1
    """How many policy versions a batch may be behind when it trains."""
    batching: Literal["merge", "group"] = "merge"
    """How experts are asked: `merge` lets groups share a call."""

    def __post_init__(self) -> None:
        if self.staleness < 1:
            raise ValueError(f"staleness must be at least 1, not {self.staleness}")

    async def drive(
        self,
        steps: Iterable[int],
        collect: Callable[[int], Awaitable[B]],
        train: Callable[[B], Awaitable[bool]],
    ) -> None:
        """Collects in one task, trains in this one; a failure of either ends both."""
        ready: asyncio.Queue[B | None] = asyncio.Queue()
        # A place is released only after its batch has been trained on; this bounds the staleness.
        places = asyncio.Semaphore(self.staleness + 1)

        async def produce() -> None:
            for step in steps:
                await places.acquire()
                ready.put_nowait(await collect(step))
            ready.put_nowait(None)

        async with asyncio.TaskGroup() as group:
            producer = group.create_task(produce())
            while (batch := await ready.get()) is not None:
                if not await train(batch):
                    producer.cancel()
                    return
                places.release()
