"""Dynamic sampling: a step uses further problems until enough groups have different scores.

Where rewards are compared within a group, a group with equal scores gives no gradient. DAPO (arXiv
2503.14476, section 3.2) leaves such groups out and samples further prompts instead.

    RunConfig(
        problems=...,                               # of a step: more than are needed, in order
        dynamic_sampling=DynamicSampling(groups=16),
        objective=GRPO.dapo(),
        ...
    )

`GRPO` has a switch of the same name, which only leaves groups without signal out of its count and
does not sample. `GRPO.dapo()` sets it; DAPO uses both.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeAlias

from preceptor_trainer.collect.rollouts import Attempt
from preceptor_trainer.tasks.task import Problem

Judge: TypeAlias = Callable[[Sequence[Problem], int], Awaitable[list[Attempt]]]
"""Maps problems and the group number of the first one to judged rollouts, group by group."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A step's judged rollouts."""

    attempts: list[Attempt]
    """Rollouts to train on."""
    discarded: list[Attempt]
    """Judged rollouts that are not trained on."""
    missing_groups: int
    """Number of requested groups with signal that the step's problems did not give."""


@dataclass(frozen=True, kw_only=True)
class DynamicSampling:
    """Tries a step's problems in their order until enough groups have scores that differ."""

    groups: int
    """Groups with signal to train on. If the step's problems give fewer, those found are used, and
    the metric `missing_groups` has the number of missing ones."""

    def __post_init__(self) -> None:
        if self.groups < 1:
            raise ValueError(f"groups: must be at least 1, not {self.groups}")

    async def fill(self, problems: Sequence[Problem], judge: Judge) -> Judged:
        """Judges at most as many problems at a time as groups are missing.

        If no group has signal, the last ones are used for the step, which has records and metrics
        like any other. Comparing their rewards adds no gradient; the weights may still change by
        AdamW's momentum and decay and by other terms of the objective.
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

    Scores are those of the feedback sources, before an objective's penalty for long responses.
    Given answers are not compared.
    """
    sampled = {attempt.score for attempt in group if not attempt.rollout.given}
    return len(sampled - {None}) > 1
