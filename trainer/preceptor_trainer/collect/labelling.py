"""Asks feedback sources and experts about rollouts, through the gateway, and builds the targets.

The trainer never depends on which expert answered: the weight of an expert without an answer goes
to the others, and a rollout without any answer has no target. Missing answers are counted.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal, TypeAlias, cast

import numpy as np
from pydantic import JsonValue

from preceptor_clients.contract.errors import ProblemDetails
from preceptor_clients.contract.schemas import (
    AnswerKind,
    FeedbackOutcome,
    FeedbackRecord,
    FeedbackSubmission,
    PrefixAnswer,
    PrefixQuery,
    PrefixSubmission,
    Records,
    TargetRecord,
    WantedWeights,
)
from preceptor_clients.http.gateway import GatewayClient
from preceptor_clients.targets.builder import (
    BUILDER_VERSION,
    Target,
    WeightedAnswer,
    build_target,
    inclusion,
)
from preceptor_clients.targets.token_weights import TokenWeights
from preceptor_trainer.collect.context import ContextPolicy, InView
from preceptor_trainer.collect.rollouts import Attempt, Rollout
from preceptor_trainer.model.batch import TrainRollout
from preceptor_trainer.tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class ExpertUse:
    """How a run uses one expert."""

    name: str
    """Its name at the gateway."""
    weight: float = 1.0
    """Its share of each position's target, before scaling over the experts that answered."""
    per_token: TokenWeights | None = None
    """Rule for the share of that weight per position, by the answer; the full weight where
    absent."""
    top_k: int = 32
    """Entries per position."""
    needs_feedback: bool = True
    """Rollouts without feedback in view are not sent to it."""
    kind: AnswerKind = "topk"
    """`empirical` for an expert that only samples, `point` for one that names a single token."""
    own_logprobs: bool = True
    """Whether it returns log-probs of the student's own tokens."""
    scores_candidates: bool = True
    """Whether it scores candidate ids."""
    wants_entropy: bool = False
    """Whether it chooses positions by the student's entropy, which is then sent with each query."""

    deadline_s: float | None = None
    """Longest wait of a step for it under an overlapped schedule, in the place of the schedule's;
    with 0 no step waits, and all its answers join later batches."""

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(f"weight of expert {self.name!r} must be positive, not {self.weight}")
        if self.deadline_s is not None and self.deadline_s < 0:
            raise ValueError(
                f"deadline_s of expert {self.name!r} must not be below 0, not {self.deadline_s}"
            )
        if self.top_k < 1:
            raise ValueError(f"top_k of expert {self.name!r} must be at least 1, not {self.top_k}")

    def is_asked(self, view: InView) -> bool:
        """Whether it is sent a rollout with this feedback in view."""
        return bool(view.items) or not self.needs_feedback

    def weight_of(self, query: PrefixQuery, answer: PrefixAnswer) -> float | np.ndarray:
        """The weight of an answer, or `[P]` of its positions."""
        return (
            self.weight if self.per_token is None else self.weight * self.per_token(query, answer)
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Labelled:
    """An attempt, the feedback in view, and its target."""

    attempt: Attempt
    in_view: InView
    target: Target | None
    inclusion_T: np.ndarray | None = None
    """`[T]` probability that at least one expert drew the position; None where all took all."""

    def record(self) -> TargetRecord | None:
        """The target's provenance row, if there is a target."""
        if self.target is None:
            return None
        weights = {c.answer_id: float(c.weight_T.max(initial=0.0)) for c in self.target.components}
        return TargetRecord(
            target_id=self.target.id,
            rollout_id=self.target.rollout_id,
            builder_version=BUILDER_VERSION,
            settings={"weights": cast("dict[str, JsonValue]", weights)},
            answer_ids=tuple(c.answer_id for c in self.target.components),
            feedback_ids=tuple(item.id for item in self.in_view.items),
            arrays=self.target.to_wire(),
            content_hash=self.target.content_hash(),
        )

    def train_rollout(self, *, on_policy: bool) -> TrainRollout:
        """The row of the update.

        Args:
            on_policy: Whether the policy to update sampled it; false for a given response.
        """
        rollout = self.attempt.rollout
        return TrainRollout(
            rollout_id=rollout.rollout_id,
            group=rollout.group,
            prompt_ids=rollout.prompt_ids,
            response_ids=cast("list[int]", rollout.response_ids.tolist()),
            behaviour_logprobs=None if rollout.given else _known(rollout),
            owned=rollout.owned,
            target=self.target,
            reward=self.attempt.score,
            on_policy=on_policy and not rollout.given,
            inclusion_probability=self.inclusion_T,
            given=rollout.given,
            uses=self.in_view.uses,
        )


OwnJudge: TypeAlias = Callable[[Sequence[Rollout]], Awaitable[Sequence[FeedbackOutcome]]]
"""Judges rollouts without a service; one outcome per rollout, in order."""


@dataclass(kw_only=True)
class Labeller:
    """Sends one run's queries to its sources and experts."""

    gateway: GatewayClient
    run: str
    task: Task
    experts: Sequence[ExpertUse]
    context: ContextPolicy
    vocab_fingerprint: str
    batching: Literal["merge", "group"]
    timeout_s: float = 120.0
    own_judges: Mapping[str, OwnJudge] = field(default_factory=dict[str, "OwnJudge"])
    """Sources of the task that are asked here and not at the gateway."""
    known: Callable[[str], Awaitable[None]] | None = None
    """Waits until the gateway knows a version of the weights, which a question may name then."""
    dropped: Counter[str] = field(default_factory=Counter[str])
    """Missing answers by the problem's code; the reader reports and clears them."""
    reasons: dict[str, str] = field(default_factory=dict[str, str])
    """The newest problem of each code, in words."""
    _payloads: set[str] = field(default_factory=set[str])

    async def put_payload(self, payload: object) -> str:
        """Stores a task's private data once, with keys in their order; returns its SHA-256."""
        body = json.dumps(payload, separators=(",", ":"), allow_nan=False).encode()
        sha256 = hashlib.sha256(body).hexdigest()
        if sha256 not in self._payloads:
            self._payloads.add(await self.gateway.put_blob(body))
        return sha256

    async def feedback(self, rollouts: Sequence[Rollout]) -> list[Attempt]:
        """Queries every source about every rollout but those that failed, which have no items."""
        asked = [rollout for rollout in rollouts if rollout.failure is None]
        answers = await asyncio.gather(*(self._ask_source(s, asked) for s in self.task.sources))
        outcomes = {
            rollout.rollout_id: dict(zip(self.task.sources, of_sources, strict=True))
            for rollout, *of_sources in zip(asked, *answers, strict=True)
        }
        return [
            self._attempt(rollout, outcomes.get(rollout.rollout_id, {})) for rollout in rollouts
        ]

    def _attempt(self, rollout: Rollout, outcomes: Mapping[str, FeedbackOutcome]) -> Attempt:
        answers = {source: o.answer for source, o in outcomes.items() if o.answer is not None}
        paid = [o for o in outcomes.values() if o.ticket is not None and not o.ticket.cached]
        return Attempt(
            rollout=rollout,
            items=tuple(item for answer in answers.values() for item in answer.items),
            task=self.task,
            unanswered={s: _why(o.problem) for s, o in outcomes.items() if o.answer is None},
            cost=sum(o.answer.cost or 0.0 for o in paid if o.answer is not None),
        )

    async def record_own(self, attempts: Sequence[Attempt]) -> None:
        """Records the items that no service gave; their rollouts are on record."""
        records = [
            FeedbackRecord(rollout_id=attempt.rollout.rollout_id, item=item)
            for attempt in attempts
            for item in attempt.items
            if item.source in self.own_judges
        ]
        if records:
            await self.gateway.record(Records(feedback=tuple(records)))

    async def _ask_source(
        self, source: str, rollouts: Sequence[Rollout]
    ) -> Sequence[FeedbackOutcome]:
        if (own := self.own_judges.get(source)) is not None:
            outcomes = await own(rollouts)
            self._count([o.problem for o in outcomes if o.problem])
            return outcomes
        submissions = [
            FeedbackSubmission(
                idempotency_key=f"{self.run}/{r.rollout_id}/{source}",
                query=r.feedback_query(self._timeout_ms),
            )
            for r in rollouts
        ]
        outcomes = await self.gateway.feedback(
            source, submissions, run=self.run, timeout_s=self.timeout_s
        )
        self._count([o.problem for o in outcomes if o.problem])
        return outcomes

    async def targets(self, attempts: Sequence[Attempt]) -> list[Labelled]:
        """Chooses the feedback in view, queries every expert, and builds one target per rollout."""
        in_view = self.views(attempts)
        per_expert = await asyncio.gather(
            *(self.ask_expert(expert, attempts, in_view) for expert in self.experts)
        )
        return [
            labelled(attempt, view, [answer for answer in answers if answer is not None])
            for attempt, view, *answers in zip(attempts, in_view, *per_expert, strict=True)
        ]

    def views(self, attempts: Sequence[Attempt]) -> list[InView]:
        """The feedback in view for each attempt; a group's attempts are neighbours."""
        return [
            view
            for _, group in groupby(attempts, key=lambda a: a.rollout.group)
            for view in self.context(list(group))
        ]

    async def ask_expert(
        self,
        expert: ExpertUse,
        attempts: Sequence[Attempt],
        in_view: Sequence[InView],
        *,
        again: str = "",
    ) -> list[WeightedAnswer | None]:
        """An expert's answers, one entry per attempt; None where there is none.

        Args:
            expert: The expert.
            attempts: What it is asked about.
            in_view: The feedback in view for each attempt.
            again: Names a repeated question, whose first ticket may have ended without an answer.
        """
        asked = [
            (i, self._prefix_query(expert, a.rollout, view))
            for i, (a, view) in enumerate(zip(attempts, in_view, strict=True))
            if expert.is_asked(view)
        ]
        key_end = expert.name + (f"/{again}" if again else "")
        submissions = [
            PrefixSubmission(
                idempotency_key=f"{self.run}/{attempts[i].rollout.rollout_id}/{key_end}",
                query=query,
            )
            for i, query in asked
        ]
        if self.known is not None:
            for version in {attempts[i].rollout.weights for i, _ in asked}:
                await self.known(version)
        outcomes = await self.gateway.logprobs(
            expert.name,
            submissions,
            run=self.run,
            batching=self.batching,
            timeout_s=self.timeout_s,
        )
        self._count([o.problem for o in outcomes if o.problem])
        answers: list[WeightedAnswer | None] = [None] * len(attempts)
        for (i, query), outcome in zip(asked, outcomes, strict=True):
            if outcome.answer is not None and outcome.ticket is not None:
                assert outcome.ticket.answer_id is not None
                weight = expert.weight_of(query, outcome.answer)
                answers[i] = WeightedAnswer(outcome.ticket.answer_id, query, outcome.answer, weight)
        return answers

    def _prefix_query(self, expert: ExpertUse, rollout: Rollout, view: InView) -> PrefixQuery:
        return PrefixQuery(
            prompt=rollout.prompt,
            response_ids=rollout.response_ids,
            owned=rollout.owned,
            feedback=view.items,
            vocab_fingerprint=self.vocab_fingerprint,
            top_k=expert.top_k,
            candidate_ids=rollout.candidate_ids,
            entropy_P=rollout.entropy_T if expert.wants_entropy else None,
            weights=WantedWeights(mode="exact", version=rollout.weights),
            group_id=rollout.group_id,
            timeout_ms=self._timeout_ms,
            rollout_id=rollout.rollout_id,
        )

    @property
    def _timeout_ms(self) -> int:
        return int(self.timeout_s * 1000)

    def _count(self, problems: Sequence[ProblemDetails]) -> None:
        self.dropped.update(problem.code for problem in problems)
        self.reasons |= {problem.code: problem.detail for problem in problems}


def _why(problem: ProblemDetails | None) -> str:
    return "no answer" if problem is None else f"{problem.code}: {problem.detail}"


def _known(rollout: Rollout) -> np.ndarray:
    """Log-probs of the tokens that were drawn; NaN for those that the student read."""
    return np.where(rollout.owned, rollout.behaviour_logprobs, np.float32(np.nan))


def labelled(attempt: Attempt, view: InView, answers: Sequence[WeightedAnswer]) -> Labelled:
    """The attempt with the target that its answers make; without answers it has none."""
    rollout = attempt.rollout
    came = [item for item in answers if item.weight_P.any()]
    owned = np.asarray(rollout.owned, np.bool_)
    return Labelled(
        attempt=attempt,
        in_view=view,
        target=build_target(rollout.rollout_id, owned, came) if came else None,
        # Includes answers without an opinion: their draw probabilities count too.
        inclusion_T=inclusion(len(owned), answers),
    )
