"""The training budget of every run of a comparison: steps, seconds, or sampled tokens.

Seconds are those of the phases of surviving steps (sampling, feedback, experts, targets, update,
publishing), without evaluations and start-up, so that an interrupted run has not spent more than an
uninterrupted one. Tokens are response tokens of all rollouts, also of those that dynamic sampling
discards. A run ends before the first step after the budget is spent, so it may exceed the budget by
part of a step.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias, TypeVar

from preceptor_trainer.run.schedules import Overlapped, Schedule
from preceptor_trainer.run.watching.metrics_log import MetricsLine, read_metrics

B = TypeVar("B")
Unit: TypeAlias = Literal["steps", "seconds", "tokens"]
_MOST_STEPS: Final = 100_000


@dataclass(frozen=True, kw_only=True)
class Budget:
    """An amount of one unit."""

    unit: Unit
    amount: float

    def __post_init__(self) -> None:
        if self.unit not in ("steps", "seconds", "tokens"):
            raise ValueError(f"unit must be steps, seconds or tokens, not {self.unit!r}")
        if not self.amount > 0:
            raise ValueError(f"amount must be positive, not {self.amount}")
        if self.unit == "steps" and self.amount != int(self.amount):
            raise ValueError(f"amount must be a whole number of steps, not {self.amount}")

    @property
    def most_steps(self) -> int:
        """Most steps of a run with this budget."""
        return int(self.amount) if self.unit == "steps" else _MOST_STEPS

    def __str__(self) -> str:
        return f"{self.amount:g} {self.unit}"


def spent(lines: Iterable[MetricsLine], unit: Unit) -> float:
    """The cost of steps, by their metrics."""
    return sum(cost_of(line, unit) for line in lines)


def cost_of(line: MetricsLine, unit: Unit) -> float:
    """The cost of one step."""
    if unit == "steps":
        return 1.0
    if unit == "tokens":
        return line["rollouts"] * line["response_length"] + line.get("discarded_tokens", 0.0)
    return sum(value or 0.0 for name, value in line.items() if name.startswith("seconds/"))


@dataclass(frozen=True, kw_only=True)
class WithinBudget:
    """A schedule that takes no further step once the budget is spent."""

    inner: Schedule
    budget: Budget
    run_dir: Path
    """The run with the metrics of spending, earlier lineages included."""

    @property
    def batching(self) -> Literal["merge", "group"]:
        """As the inner schedule."""
        return self.inner.batching

    @property
    def overlapped(self) -> Overlapped | None:
        """As the inner schedule."""
        return self.inner.overlapped

    async def drive(
        self,
        steps: Iterable[int],
        collect: Callable[[int], Awaitable[B]],
        train: Callable[[B], Awaitable[bool]],
    ) -> None:
        """Drives the steps that can be paid for."""
        await self.inner.drive(self._affordable(steps), collect, train)

    def _affordable(self, steps: Iterable[int]) -> Iterator[int]:
        for step in steps:
            if spent(read_metrics(self.run_dir), self.budget.unit) >= self.budget.amount:
                return
            yield step
