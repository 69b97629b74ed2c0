"""Where a step's sequences come from: the student itself, or in part right answers given to it.

    RunConfig(..., source=References(texts_of=reference_texts, share=0.5))      # GKD's mixed data

A given sequence stands where a sampled one would: sources judge it, experts label it, and it is
recorded. It is marked `given`, so it trains as a forced sequence does: local term only, no
importance weight, no part in a baseline. `owned` is true on it and says where labels may go, not
who wrote it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from preceptor_clients.contract.arrays import MISSING
from preceptor_trainer.collect.rollouts import Problem, Rollout
from preceptor_trainer.collect.sampler import SamplerStage
from preceptor_trainer.sampling.local import SamplingParams


class RolloutSource(Protocol):
    """Problems in, one group of rollouts per problem out, in the order of the problems."""

    @property
    def given_share(self) -> float:
        """Share of each group that is given and not sampled."""
        ...

    def __call__(
        self,
        stage: SamplerStage,
        problems: Sequence[Problem],
        payloads: Sequence[str],
        *,
        num_samples: int,
        params: SamplingParams,
        generator: torch.Generator,
        prefix: str,
        step: int,
    ) -> list[Rollout]: ...


@dataclass(frozen=True, kw_only=True)
class OnPolicy:
    """Everything is sampled from the policy."""

    @property
    def given_share(self) -> float:
        """Nothing is given."""
        return 0.0

    def __call__(
        self,
        stage: SamplerStage,
        problems: Sequence[Problem],
        payloads: Sequence[str],
        *,
        num_samples: int,
        params: SamplingParams,
        generator: torch.Generator,
        prefix: str,
        step: int,
    ) -> list[Rollout]:
        """Samples `num_samples` responses to each problem."""
        return stage.rollouts(
            problems,
            payloads,
            num_samples=num_samples,
            params=params,
            generator=generator,
            prefix=prefix,
            step=step,
        )


@dataclass(frozen=True, kw_only=True)
class References:
    """A share of every group is right answers; the rest is sampled."""

    texts_of: Callable[[Problem], Sequence[str]]
    """Right answers to a problem; a group takes them in turn, again from the first if it must."""
    share: float = 1.0
    """Of each group, rounded up to whole rollouts; 1 samples nothing."""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be in (0, 1], not {self.share}")

    @property
    def given_share(self) -> float:
        """As configured."""
        return self.share

    def __call__(
        self,
        stage: SamplerStage,
        problems: Sequence[Problem],
        payloads: Sequence[str],
        *,
        num_samples: int,
        params: SamplingParams,
        generator: torch.Generator,
        prefix: str,
        step: int,
    ) -> list[Rollout]:
        """Given answers come last in their group."""
        num_given = math.ceil(self.share * num_samples)
        texts = [self._texts(problem, num_given) for problem in problems]
        rows = _given(stage, problems, payloads, texts, prefix=prefix, step=step)
        if num_given < num_samples:
            rows = [
                *stage.rollouts(
                    problems,
                    payloads,
                    num_samples=num_samples - num_given,
                    params=params,
                    generator=generator,
                    prefix=prefix,
                    step=step,
                ),
                *rows,
            ]
        return sorted(rows, key=lambda r: r.group)

    def _texts(self, problem: Problem, count: int) -> list[str]:
        texts = self.texts_of(problem)
        if not texts:
            raise ValueError(f"texts_of: no right answer to problem {problem.id!r}")
        return [texts[i % len(texts)] for i in range(count)]


def _given(
    stage: SamplerStage,
    problems: Sequence[Problem],
    payloads: Sequence[str],
    texts: Sequence[Sequence[str]],
    *,
    prefix: str,
    step: int,
) -> list[Rollout]:
    rows: list[Rollout] = []
    for g, (problem, payload, answers) in enumerate(zip(problems, payloads, texts, strict=True)):
        for i, text in enumerate(answers):
            ids = np.asarray(stage.response_ids(text), np.int32)
            rows.append(
                Rollout(
                    rollout_id=f"{prefix}-{g}-given-{i}",
                    group_id=f"{prefix}-{g}",
                    group=g,
                    problem=problem,
                    payload_sha256=payload,
                    prompt_ids=stage.prompt_ids(problem),
                    response_ids=ids,
                    response_text=text,
                    behaviour_logprobs=np.full(len(ids), MISSING, np.float32),
                    owned=np.ones(len(ids), np.bool_),
                    finish_reason="stop",
                    step=step,
                    weights=stage.version,
                    given=True,
                )
            )
    return rows
