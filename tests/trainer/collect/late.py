"""Groups of attempts, and experts that answer when they are told to."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from preceptor_clients.contract.schemas import FeedbackItem, PrefixQuery, PrefixSubmission
from preceptor_clients.sdk.answers import Distributions, build_answer
from preceptor_trainer.collect.context import NothingInView
from preceptor_trainer.collect.labelling import ExpertUse, Labeller
from preceptor_trainer.collect.rollouts import Attempt, Rollout
from preceptor_trainer.tasks.task import RecordedProblem, ScoredTask

TASK = ScoredTask(sources=("judge",))


@dataclass(eq=False)
class Experts:
    """A gateway whose experts answer at once, when they are let, or not at all."""

    waits: dict[str, asyncio.Event] = field(default_factory=dict[str, asyncio.Event])
    """Experts that answer once this is set."""
    down: set[str] = field(default_factory=set[str])
    asked: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """Experts and the keys of their questions."""

    async def experts(self) -> SimpleNamespace:
        names = {"fast", "slow", *self.waits, *self.down}
        states = [
            SimpleNamespace(name=name, state="unreachable" if name in self.down else "ready")
            for name in names
        ]
        return SimpleNamespace(services=states)

    async def logprobs(
        self, name: str, submissions: Sequence[PrefixSubmission], **options: object
    ) -> list[SimpleNamespace]:
        self.asked += [(name, submission.idempotency_key) for submission in submissions]
        if name in self.waits:
            await self.waits[name].wait()
        return [outcome_of(name, submission.query) for submission in submissions]


def outcome_of(expert: str, query: PrefixQuery) -> SimpleNamespace:
    """Half of the mass on each of two tokens, everywhere."""
    P = query.num_positions
    answer = build_answer(
        query,
        Distributions(
            ids_PK=np.array([[1, 2]] * P),
            logprobs_PK=np.log([[0.5, 0.5]] * P),
            own_logprobs_P=None,
        ),
        expert=expert,
        expert_version="1",
    )
    ticket = SimpleNamespace(answer_id=f"{expert}/{query.rollout_id}", cached=False)
    return SimpleNamespace(answer=answer, problem=None, ticket=ticket)


def attempts(step: int, count: int = 2, version: int | None = None) -> list[Attempt]:
    """One group of a step, whose first attempt was right."""
    return [
        Attempt(
            rollout=Rollout(
                rollout_id=f"run-l0-{step}-0-{i}",
                group_id=f"run-l0-{step}-0",
                group=0,
                problem=RecordedProblem(id="p", messages=[{"role": "user", "content": "Hi"}]),
                payload_sha256="a" * 64,
                prompt_ids=[7],
                response_ids=np.array([1, 2, 1], np.int32),
                response_text="",
                behaviour_logprobs=np.full(3, -0.5, np.float32),
                owned=np.ones(3, np.bool_),
                finish_reason="stop",
                step=step,
                weights=f"run/l0/{step if version is None else version}",
            ),
            items=(
                FeedbackItem(
                    id=f"i{step}{i}", kind="verdict", score=1.0 - i, source="judge", version="1"
                ),
            ),
            task=TASK,
        )
        for i in range(count)
    ]


def labeller(gateway: Experts, **weights: float) -> Labeller:
    """Asks these experts, which need no feedback."""
    return Labeller(
        gateway=cast("Any", gateway),
        run="run",
        task=TASK,
        experts=[
            ExpertUse(name=name, weight=weight, needs_feedback=False)
            for name, weight in weights.items()
        ],
        context=NothingInView(),
        vocab_fingerprint="a" * 64,
        batching="merge",
        dropped=Counter(),
    )
