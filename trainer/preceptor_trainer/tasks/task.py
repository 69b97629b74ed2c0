"""Tasks: who judges an attempt, what its score is, and when it counts as solved.

    RunConfig(..., task=ScoredTask(sources=("executor",)))

A problem says what is asked (`messages`) and what its judges need (`payload`); the task is the same
for all problems of a run. Nothing else in the trainer knows a threshold or a feedback source's
name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from preceptor_clients.contract.schemas import FeedbackItem


class Problem(Protocol):
    """One thing to attempt."""

    @property
    def id(self) -> str:
        """Its name in records and evaluations."""
        ...

    @property
    def messages(self) -> Sequence[dict[str, str]]:
        """The chat that the student continues."""
        ...

    @property
    def payload(self) -> dict[str, Any]:
        """What the feedback sources are told of it, and nobody else."""
        ...


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
        """Whether an attempt counts as a success; one that nobody judged does not."""
        ...


@dataclass(frozen=True, kw_only=True)
class ScoredTask:
    """The score is the sum of what the sources gave, and solved means that it is high enough."""

    sources: tuple[str, ...]
    """Feedback sources, by name at the gateway; empty where attempts are not judged."""
    solved_at: float = 0.5
    """Lowest score of a success."""

    def score(self, items: Sequence[FeedbackItem]) -> float | None:
        """The sum over the items that have one; an item with an error has none, which is not 0."""
        scores = [item.score for item in items if item.score is not None]
        return sum(scores) if scores else None

    def solved(self, items: Sequence[FeedbackItem]) -> bool:
        """Whether the score is at least `solved_at`."""
        score = self.score(items)
        return score is not None and score >= self.solved_at


NOT_JUDGED: Final = ScoredTask(sources=())
"""For attempts that no source is asked about."""
