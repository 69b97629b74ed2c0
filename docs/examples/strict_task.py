"""A task in one file: an attempt is solved only where every source says so.

The reward is the mean of the sources' scores, so that a program that passes its tests and is slow
still learns from the tests. A recipe imports it and passes `task=EverySource(...)`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from preceptor_clients.contract.schemas import FeedbackItem


@dataclass(frozen=True, kw_only=True)
class EverySource:
    """All sources must be content."""

    sources: tuple[str, ...] = ("executor", "brevity")
    """Feedback sources, by name at the gateway."""
    solved_at: float = 1.0
    """Lowest score of a source that is content."""

    def score(self, items: Sequence[FeedbackItem]) -> float | None:
        """The mean over the sources; None where one of them did not judge."""
        scores = {item.source: item.score for item in items if item.score is not None}
        return sum(scores.values()) / len(scores) if set(scores) == set(self.sources) else None

    def solved(self, items: Sequence[FeedbackItem]) -> bool:
        """Whether every source gave at least `solved_at`."""
        scores = {item.source: item.score for item in items if item.score is not None}
        return set(scores) == set(self.sources) and min(scores.values()) >= self.solved_at
