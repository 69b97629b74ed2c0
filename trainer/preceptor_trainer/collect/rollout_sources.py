"""Sources of a step's sequences: samples of the student, or in part given right answers.

    RunConfig(..., rollout_source=References(texts_of=reference_texts, share=0.5))  # as in GKD

A given sequence replaces a sampled one: sources judge it, experts label it, and it is recorded. It
is marked `given`, so it trains like a forced sequence: local term only, no importance weight, not
part of a baseline. `owned` is true on it, since it marks the tokens that may have labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from preceptor_clients.contract.arrays import MISSING
from preceptor_trainer.collect.rollouts import Rollout
from preceptor_trainer.collect.student import RolloutRequest, Student
from preceptor_trainer.tasks.task import Problem


class RolloutSource(Protocol):
    """From problems to one group of rollouts per problem, in the order of the problems."""

    @property
    def given_share(self) -> float:
        """Share of each group that is given and not sampled."""
        ...

    async def __call__(self, student: Student, request: RolloutRequest) -> list[Rollout]: ...


@dataclass(frozen=True, kw_only=True)
class OnPolicy:
    """Everything is sampled from the policy."""

    @property
    def given_share(self) -> float:
        """Nothing is given."""
        return 0.0

    async def __call__(self, student: Student, request: RolloutRequest) -> list[Rollout]:
        """Samples every requested rollout."""
        return await student.rollouts(request)


@dataclass(frozen=True, kw_only=True)
class References:
    """A share of every group is right answers; the rest is sampled."""

    texts_of: Callable[[Problem], Sequence[str]]
    """Right answers to a problem; a group uses them in order and repeats them if needed."""
    share: float = 1.0
    """Given share of each group, rounded up to whole rollouts; with 1 nothing is sampled."""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be in (0, 1], not {self.share}")

    @property
    def given_share(self) -> float:
        """As configured."""
        return self.share

    async def __call__(self, student: Student, request: RolloutRequest) -> list[Rollout]:
        """Given answers come last in their group."""
        num_given = math.ceil(self.share * request.num_samples)
        texts = [self._texts(problem, num_given) for problem in request.problems]
        rows = _given(student, request, texts)
        if num_given < request.num_samples:
            sampled = replace(request, num_samples=request.num_samples - num_given)
            rows = [*await student.rollouts(sampled), *rows]
        return sorted(rows, key=lambda r: r.group)

    def _texts(self, problem: Problem, count: int) -> list[str]:
        texts = self.texts_of(problem)
        if not texts:
            raise ValueError(f"texts_of: returned no right answer to problem {problem.id!r}")
        return [texts[i % len(texts)] for i in range(count)]


def _given(
    student: Student, request: RolloutRequest, texts: Sequence[Sequence[str]]
) -> list[Rollout]:
    rows: list[Rollout] = []
    for g, (problem, payload, answers) in enumerate(
        zip(request.problems, request.payloads, texts, strict=True)
    ):
        for i, text in enumerate(answers):
            ids = np.asarray(student.response_ids(text), np.int32)
            rows.append(
                Rollout(
                    rollout_id=f"{request.prefix}-{g}-given-{i}",
                    group_id=f"{request.prefix}-{g}",
                    group=g,
                    problem=problem,
                    payload_sha256=payload,
                    prompt_ids=student.prompt_ids(problem),
                    response_ids=ids,
                    response_text=text,
                    behaviour_logprobs=np.full(len(ids), MISSING, np.float32),
                    owned=np.ones(len(ids), np.bool_),
                    finish_reason="stop",
                    step=request.step,
                    weights=student.version,
                    given=True,
                )
            )
    return rows
