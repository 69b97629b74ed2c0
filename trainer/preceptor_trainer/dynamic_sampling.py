"""Dynamic sampling: a step goes on to further problems until enough groups teach something.

Where rewards are compared within a group, one whose scores are all equal teaches nothing. DAPO
(arXiv 2503.14476, section 3.2) leaves such groups out and samples further prompts in their place.

    RunConfig(
        problems=...,                               # of a step: more than are needed, in order
        dynamic_sampling=DynamicSampling(groups=16),
        objective=GRPO.dapo(),
        ...
    )
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeAlias

from preceptor_trainer.rollouts import Attempt, Problem

Judge: TypeAlias = Callable[[Sequence[Problem], int], Awaitable[list[Attempt]]]
"""Problems, and the number of the first one's group, to judged rollouts, group by group."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A step's judged rollouts."""

    attempts: list[Attempt]
    """Those that train."""
    discarded: list[Attempt]
    """Those that were paid for and do not."""


@dataclass(frozen=True, kw_only=True)
class DynamicSampling:
    """Tries a step's problems in their order until enough groups have scores that differ."""

    groups: int
    """So many groups train, if the step's problems suffice."""

    def __post_init__(self) -> None:
        if self.groups < 1:
            raise ValueError(f"groups: must be at least 1, not {self.groups}")

    async def fill(self, problems: Sequence[Problem], judge: Judge) -> Judged:
        """Judges no more problems at a time than groups are missing.

        Where no group of the whole reserve has signal, the last ones are the step: it has records
        and metrics as any other, and moves nothing.
        """
        kept: list[list[Attempt]] = []
        flat: list[list[Attempt]] = []
        tried = 0
        while len(kept) < self.groups and tried < len(problems):
            some = problems[tried : tried + self.groups - len(kept)]
            judged = await judge(some, tried)
            tried += len(some)
            for _, rows in groupby(judged, key=lambda attempt: attempt.rollout.group):
                group = list(rows)
                (kept if has_signal(group) else flat).append(group)
        if not kept:
            flat, kept = flat[: -self.groups], flat[-self.groups :]
        return Judged(
            attempts=[attempt for group in kept for attempt in group],
            discarded=[attempt for group in flat for attempt in group],
        )


def has_signal(group: Sequence[Attempt]) -> bool:
    """Whether two attempts that were scored have different scores."""
    return len({attempt.score for attempt in group} - {None}) > 1
