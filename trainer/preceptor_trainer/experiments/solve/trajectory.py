"""The result of a driver for one question and one seed."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from preceptor_trainer.collect.rollouts import Attempt
from preceptor_trainer.evaluation.held_out import NotGraded

_log: Final = logging.getLogger("preceptor.trainer")

DriverName: TypeAlias = Literal["best-of-k", "multi-turn", "test-time"]


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """Attempts at one question in their order, until the first success or the end of the budget."""

    method: DriverName
    problem_id: str
    seed: int
    attempts: int
    """Number of judged attempts."""
    solved_at: int | None
    """Number of the first success, from 1; None without success: censored at `attempts`."""
    successes: int | None = None
    """Of all attempts, where they were independent draws: makes pass@k unbiased."""
    tokens: int
    """Response tokens sampled."""
    seconds: float
    """Wall-clock time; shared evenly among questions that ran together."""
    missing: int = 0
    """Attempts without a grade: neither successes nor failures, and not among `attempts`."""

    def __post_init__(self) -> None:
        if self.missing and not self.attempts:
            raise NotGraded(f"none of the {self.missing} attempts at {self.problem_id} was judged")
        if self.attempts < 1:
            raise ValueError(f"attempts must be positive, not {self.attempts}")
        if self.solved_at is not None and not 1 <= self.solved_at <= self.attempts:
            raise ValueError(f"solved_at must be 1 to {self.attempts}, not {self.solved_at}")


def say_unjudged(attempt: Attempt) -> None:
    """Logs an attempt without a grade, and why it has none."""
    why = [item.error for item in attempt.items] or "no source answered"
    _log.warning("%s was not judged: %s", attempt.rollout.rollout_id, why)
