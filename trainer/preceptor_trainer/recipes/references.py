"""A problem's reference answer: in an expert's view (OPSD), or as a training sequence (SFT, GKD).

Such a method has more information than one that learns from an executor alone; the comparison's
table of what each method sees states this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from preceptor_clients.contract.schemas import FeedbackItem
from preceptor_trainer.collect.context import InView
from preceptor_trainer.collect.rollouts import Attempt
from preceptor_trainer.tasks.task import Problem


@dataclass(frozen=True, kw_only=True)
class ReferenceInView:
    """Every expert query has the reference in view, regardless of the attempt's outcome."""

    def __call__(self, group: Sequence[Attempt]) -> list[InView]:
        """The reference depends on no rollout, so siblings remain unbiased baselines."""
        return [InView((_item(attempt.rollout.problem),), frozenset()) for attempt in group]


def reference_texts(problem: Problem) -> Sequence[str]:
    """The reference answers of a problem.

    Raises:
        ValueError: it has none.
    """
    reference = getattr(problem, "reference", None)
    if not isinstance(reference, str):
        raise ValueError(f"problem {problem.id!r} has no reference")
    return (reference,)


def _item(problem: Problem) -> FeedbackItem:
    return FeedbackItem(
        id=f"reference-{problem.id}",
        kind="reference",
        text=reference_texts(problem)[0],
        source="problem",
        version="1",
    )
