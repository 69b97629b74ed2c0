"""Context policies choose the feedback of each expert query. Pure functions of a group.

Experts only render the feedback of a query. The choice is made here, so that it is the same for
every expert and is part of the trainer's configuration. The failed attempt itself is never in view:
the rollout is scored as the answer, and showing it with its own feedback lowers entropy and
accuracy (arXiv 2601.20802, table 6).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from preceptor_clients.contract.schemas import FeedbackItem
from preceptor_trainer.collect.rollouts import Attempt

_THINKING = re.compile(r"<think>.*?</think>\s*", re.DOTALL)


class InView(NamedTuple):
    """The feedback in view for one rollout."""

    items: tuple[FeedbackItem, ...]
    uses: frozenset[str]
    """Rollouts whose text or outcome these items depend on."""


class ContextPolicy(Protocol):
    """From a group of attempts at one problem to the feedback in view for each, in order.

    A policy with an attribute `needs_siblings` that is false gives each attempt the same view alone
    as in its group; an overlapped run then asks experts before the group is whole.
    """

    def __call__(self, group: Sequence[Attempt]) -> list[InView]: ...


@dataclass(frozen=True, kw_only=True)
class PapersContext:
    """Sibling demonstration, else own feedback (arXiv 2601.20802 section 2 and arXiv 2606.05152).

    A rollout with neither has no teacher and is masked. The demonstration is the next successful
    sibling in the group's order, cyclically, because the first one would be the demonstration of
    all.
    """

    demonstrations: bool = True
    """Whether a successful sibling may be shown."""
    own_solution: bool = False
    """Whether a successful rollout is shown its own response, regardless of its siblings.

    As in table 2 of arXiv 2601.20802. The released code shows a sibling's response or nothing, as
    here when off. When on, every successful rollout has a teacher; without demonstrations this
    keeps the policy at its successes while it learns from its failures.
    """
    own_feedback: bool = True
    """Whether the rollout's own feedback may be shown where there is no demonstration."""
    hidden_sources: tuple[str, ...] = ()
    """Sources whose texts are shown to no expert; their scores count as before."""

    @property
    def needs_siblings(self) -> bool:
        """Only demonstrations are of siblings."""
        return self.demonstrations

    def __call__(self, group: Sequence[Attempt]) -> list[InView]:
        # An attempt without text shows nothing, so that another one is shown in its place.
        successes = [i for i, a in enumerate(group) if a.solved and _shown_text(a)]
        return [self._in_view(group, i, successes) for i in range(len(group))]

    def _in_view(self, group: Sequence[Attempt], i: int, successes: Sequence[int]) -> InView:
        if self.own_solution and i in successes:
            return InView((demonstration(group[i]),), frozenset({group[i].rollout.rollout_id}))
        others = sorted((j for j in successes if j != i), key=lambda j: (j - i) % len(group))
        if self.demonstrations and others:
            sibling = group[others[0]]
            # The choice of this sibling depends on the outcomes of the siblings before it.
            return InView((demonstration(sibling),), _judged(group, i, others[0]))
        if not self.own_feedback:
            return InView((), frozenset())
        own = tuple(item for item in group[i].items if self._may_be_seen(item))
        uses = (
            frozenset(a.rollout.rollout_id for a in group)
            if self.demonstrations
            else frozenset[str]()
        )
        return InView(own, uses | {group[i].rollout.rollout_id})

    def _may_be_seen(self, item: FeedbackItem) -> bool:
        return bool(item.text) and item.expert_may_see and item.source not in self.hidden_sources


def _judged(group: Sequence[Attempt], i: int, chosen: int) -> frozenset[str]:
    """Siblings whose success or failure led to the choice of `chosen`.

    These are `chosen` and those before it in the cyclic order.
    """
    distance = (chosen - i) % len(group)
    return frozenset(group[(i + d) % len(group)].rollout.rollout_id for d in range(1, distance + 1))


@dataclass(frozen=True, kw_only=True)
class NothingInView:
    """No feedback: the control arm, in which the expert is the policy's own average."""

    @property
    def needs_siblings(self) -> bool:
        """Nothing is in view."""
        return False

    def __call__(self, group: Sequence[Attempt]) -> list[InView]:
        return [InView((), frozenset()) for _ in group]


def demonstration(attempt: Attempt) -> FeedbackItem:
    """A successful attempt as a feedback item, without its thinking."""
    rollout = attempt.rollout
    return FeedbackItem(
        id=f"demo-{rollout.rollout_id}",
        kind="demonstration",
        text=_shown_text(attempt),
        source="rollout",
        version=rollout.weights,
        details={"rollout_id": rollout.rollout_id, "verdicts": [i.id for i in attempt.items]},
    )


def _shown_text(attempt: Attempt) -> str:
    return _THINKING.sub("", attempt.rollout.response_text).strip()
