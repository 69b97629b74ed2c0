"""Dynamic sampling: a step goes on to further problems until enough groups teach something.

Where rewards are compared within a group, one whose scores are all equal teaches nothing. DAPO
(arXiv 2503.14476, section 3.2) leaves such groups out and samples further prompts in their place.

    RunConfig(
        problems=...,                               # of a step: more than are needed, in order
        dynamic_sampling=DynamicSampling(groups=16),
        objective=GRPO.dapo(),
        ...
    )

Of the same name is a switch of `GRPO`, which only leaves groups without signal out of its count and
samples nothing. `GRPO.dapo()` has it on, and DAPO has both.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeAlias

from preceptor_trainer.collect.rollouts import Attempt
from preceptor_trainer.tasks.task import Problem

Judge: TypeAlias = Callable[[Sequence[Problem], int], Awaitable[list[Attempt]]]
"""Problems, and the number of the first one's group, to judged rollouts, group by group."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A step's judged rollouts."""

    attempts: list[Attempt]
    """Those that train."""
    discarded: list[Attempt]
    """Those that were paid for and do not."""
    missing_groups: int
    """Groups with signal that were asked for and that the step's problems did not give."""


@dataclass(frozen=True, kw_only=True)
class DynamicSampling:
    """Tries a step's problems in their order until enough groups have scores that differ."""

    groups: int
    """So many groups train, if the step's problems suffice; else as many as were found, and the
    metric `missing_groups` says how many were not."""

    def __post_init__(self) -> None:
        if self.groups < 1:
            raise ValueError(f"groups: must be at least 1, not {self.groups}")

    async def fill(self, problems: Sequence[Problem], judge: Judge) -> Judged:
        """Judges no more problems at a time than groups are missing.

        Where no group of the whole reserve has signal, the last ones are the step, which has
        records and metrics as any other. Comparing their rewards adds no gradient; the weights may
        still move, by AdamW's momentum and decay and by what else the objective holds.
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
        missing = self.groups - len(kept)
        if not kept:
            flat, kept = flat[: -self.groups], flat[-self.groups :]
        return Judged(
            attempts=[attempt for group in kept for attempt in group],
            discarded=[attempt for group in flat for attempt in group],
            missing_groups=missing,
        )


def has_signal(group: Sequence[Attempt]) -> bool:
    """Whether two sampled attempts that were scored have different scores.

    Scores are those of the feedback sources, before what an objective takes off a long response.
    Answers that were given to the student are in no comparison.
    """
    sampled = {attempt.score for attempt in group if not attempt.rollout.given}
    return len(sampled - {None}) > 1
