"""Tasks: the sources that judge an attempt, its score, and when it counts as solved.

    RunConfig(..., task=ScoredTask(sources=("executor",)))

A problem has its chat (`messages`) and the data for its judges (`payload`); the task is the same
for all problems of a run. Thresholds and names of feedback sources are only in tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, runtime_checkable

from preceptor_clients.contract.schemas import FeedbackItem


class Problem(Protocol):
    """One thing to attempt."""

    @property
    def id(self) -> str:
        """The problem's name in records and evaluations."""
        ...

    @property
    def messages(self) -> Sequence[dict[str, str]]:
        """The chat that the student continues."""
        ...

    @property
    def payload(self) -> dict[str, Any]:
        """The data for the feedback sources only."""
        ...


@dataclass(frozen=True, kw_only=True)
class OtherChat:
    """A problem with another chat; everything else is the original's."""

    original: Problem
    messages: Sequence[dict[str, str]]

    @property
    def id(self) -> str:
        """The original's."""
        return self.original.id

    @property
    def payload(self) -> dict[str, Any]:
        """The original's."""
        return self.original.payload

    def __getattr__(self, name: str) -> Any:
        # A rollout source of the user's may read more than `Problem` names.
        return getattr(self.original, name)


@dataclass(frozen=True, kw_only=True)
class RecordedProblem:
    """A problem as a record has it, without its tests, which are no longer needed."""

    id: str
    messages: Sequence[dict[str, str]]
    payload: dict[str, Any] = field(default_factory=dict[str, Any])


class Task(Protocol):
    """How attempts of a run are judged."""

    @property
    def sources(self) -> Sequence[str]:
        """The feedback sources that judge every attempt, by name at the gateway."""
        ...

    def score(self, items: Sequence[FeedbackItem]) -> float | None:
        """The reward of an attempt; None where no source gave a score."""
        ...

    def solved(self, items: Sequence[FeedbackItem]) -> bool:
        """Whether an attempt counts as a success; an unjudged attempt does not."""
        ...


@runtime_checkable
class Counts(Protocol):
    """A task that names the sources without which there is no reward."""

    @property
    def counted(self) -> Sequence[str]:
        """By name at the gateway; where one of them gave no answer, an attempt is not judged."""
        ...


@dataclass(frozen=True, kw_only=True)
class ScoredTask:
    """The score is the sum of the sources' scores; solved means a score of at least `solved_at`.

    Where a source failed, the attempt is not judged: a sum without it would be another reward.
    """

    sources: tuple[str, ...]
    """Feedback sources, by name at the gateway; empty where attempts are not judged."""
    solved_at: float = 0.5
    """Lowest score of a success."""

    @property
    def counted(self) -> Sequence[str]:
        """All of them."""
        return self.sources

    def score(self, items: Sequence[FeedbackItem]) -> float | None:
        """The sum over the items with a score; None where none has one, or a source failed."""
        if any(item.error is not None for item in items):
            return None
        scores = [item.score for item in items if item.score is not None]
        return sum(scores) if scores else None

    def solved(self, items: Sequence[FeedbackItem]) -> bool:
        """Whether the score is at least `solved_at`."""
        score = self.score(items)
        return score is not None and score >= self.solved_at


NOT_JUDGED: Final = ScoredTask(sources=())
"""The task of attempts that are not judged."""
