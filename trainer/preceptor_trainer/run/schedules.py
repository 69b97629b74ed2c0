"""Schedules: how collecting (sample, feedback, experts, targets) and training interleave.

`Deterministic` is the mode of the quickstart and of the resume tests: staleness 0, one group is one
expert batch, so the same machine, seed and versions give the same numbers. `Overlapped` collects
the next batches while one trains, in stages that overlap too (`streaming.py`); it guarantees the
accounting, not equal numbers. Objectives weigh rollouts that an older policy sampled by the
log-probs that it sampled them with.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from preceptor_trainer.kit.together import together

B = TypeVar("B")


class Schedule(Protocol):
    """Drives the steps of a run."""

    @property
    def batching(self) -> Literal["merge", "group"]: ...

    @property
    def overlapped(self) -> Overlapped | None:
        """How collecting and training overlap; None where they take turns."""
        ...

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

    @property
    def overlapped(self) -> None:
        """Nothing overlaps."""

    async def drive(
        self,
        steps: Iterable[int],
        collect: Callable[[int], Awaitable[B]],
        train: Callable[[B], Awaitable[bool]],
    ) -> None:
        """Collects and trains in turn."""
        for step in steps:
            batch = await collect(step)
            _end_if_cancelled()
            if not await train(batch):
                return
            _end_if_cancelled()


@dataclass(frozen=True, kw_only=True)
class Overlapped:
    """Collects up to `staleness` steps ahead of the optimiser.

    Rollouts are judged and shown to experts one by one as they end, and the next step is sampled
    meanwhile.
    """

    staleness: int = 1
    """How many policy versions a batch may be behind when it trains."""
    batching: Literal["merge", "group"] = "merge"
    """How experts are asked: `merge` lets groups share a call."""
    deadline_s: float | None = None
    """Longest wait of a step for an expert, from the question on; later answers join a later
    batch. None waits as long as a question may take (`RunConfig.timeout_s`)."""
    join_within: int = 8
    """How many policy versions rollouts may be behind that join a batch with late answers; answers
    that come later are dropped."""

    def __post_init__(self) -> None:
        if self.staleness < 1:
            raise ValueError(f"staleness must be at least 1, not {self.staleness}")
        if self.deadline_s is not None and not self.deadline_s > 0:
            raise ValueError(f"deadline_s must be above 0, not {self.deadline_s}")
        if self.join_within < self.staleness:
            raise ValueError(
                f"join_within must be at least staleness = {self.staleness}, not {self.join_within}"
            )

    @property
    def overlapped(self) -> Overlapped:
        """This schedule."""
        return self

    async def drive(
        self,
        steps: Iterable[int],
        collect: Callable[[int], Awaitable[B]],
        train: Callable[[B], Awaitable[bool]],
    ) -> None:
        """Collects in tasks, trains in this one; a failure of any ends all."""
        ready: asyncio.Queue[asyncio.Task[B] | None] = asyncio.Queue()
        # A place is released only after its batch has been trained on; this bounds the staleness.
        places = asyncio.Semaphore(self.staleness + 1)

        async def collected(step: int) -> B:
            return await collect(step)

        async with together() as tasks:

            async def produce() -> None:
                left = iter(steps)
                while True:
                    await places.acquire()
                    # Only now: a run may end by what earlier steps have cost.
                    if (step := next(left, None)) is None:
                        break
                    ready.put_nowait(tasks.create_task(collected(step)))
                ready.put_nowait(None)

            producer = tasks.create_task(produce())
            while (collecting := await ready.get()) is not None:
                batch = await collecting
                _end_if_cancelled()
                if not await train(batch):
                    producer.cancel()
                    _cancel_all(ready)
                    return
                _end_if_cancelled()
                places.release()


def _cancel_all(ready: asyncio.Queue[asyncio.Task[B] | None]) -> None:
    while not ready.empty():
        if (batch := ready.get_nowait()) is not None:
            batch.cancel()


def _end_if_cancelled() -> None:
    """Raises a cancellation again that was lost on the way.

    A sampler, an expert's client or an environment may catch the one `CancelledError` of a Ctrl-C
    or SIGTERM, as `asyncio.wait_for` of Python 3.11 does when its work has just ended; the run
    would go on to its last step.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
