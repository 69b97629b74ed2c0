"""Several sources that judge an attempt together, and the rule that makes one reward of it.

RunConfig(..., task=CombinedTask(sources=("tests", "style"), weights=(1.0, 0.2), rule="sum"))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from preceptor_clients.contract.schemas import FeedbackItem

Rule = Literal["sum", "mean", "min", "first"]


@dataclass(frozen=True, kw_only=True)
class CombinedTask:
    """One reward from the scores of several sources.

    A source that only writes texts is not counted. Where a source that is counted failed, the
    attempt is not judged: a sum without it would be another reward.
    """

    sources: tuple[str, ...]
    """Feedback sources, by name at the gateway."""
    weights: tuple[float, ...]
    """What each source's score is multiplied by, for `sum` and `mean`."""
    rule: Rule = "sum"
    """`first` is the score of the first source; the others only say what is wrong."""
    solved_at: float = 0.5
    """Lowest reward of a success."""

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("sources: is empty")
        if len(self.weights) != len(self.sources):
            raise ValueError(
                f"weights: has {len(self.weights)} values for {len(self.sources)} sources"
            )

    @property
    def counted(self) -> Sequence[str]:
        """The first one, or all of them."""
        return self.sources[:1] if self.rule == "first" else self.sources

    def score(self, items: Sequence[FeedbackItem]) -> float | None:
        """The reward; None where nothing was scored, or a source that counts failed."""
        scores: list[float] = []
        for source, weight in zip(self.counted, self.weights, strict=False):
            own = [item for item in items if item.source == source]
            if not own or any(item.error is not None for item in own):
                return None
            given = [item.score for item in own if item.score is not None]
            if given:
                factor = weight if self.rule in ("sum", "mean") else 1.0
                scores.append(factor * sum(given))
        return _by_rule(self.rule, scores) if scores else None

    def solved(self, items: Sequence[FeedbackItem]) -> bool:
        """Whether the reward is at least `solved_at`."""
        score = self.score(items)
        return score is not None and score >= self.solved_at


def _by_rule(rule: Rule, scores: Sequence[float]) -> float:
    match rule:
        case "sum":
            return sum(scores)
        case "mean":
            return sum(scores) / len(scores)
        case "min":
            return min(scores)
        case "first":
            return scores[0]
