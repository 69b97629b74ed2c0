"""A rollout: one attempt of the student, with all data that later stages need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from preceptor_clients.contract.schemas import (
    Episode,
    FeedbackItem,
    FeedbackQuery,
    Message,
    Prompt,
    RolloutRecord,
)
from preceptor_trainer.sampling.params import SamplingParams
from preceptor_trainer.tasks.task import Counts, Problem, Task


@dataclass(frozen=True, kw_only=True, eq=False)
class Rollout:
    """One attempt. Arrays are over its `T` response tokens, the end token included."""

    rollout_id: str
    group_id: str
    group: int
    problem: Problem
    payload_sha256: str
    prompt_ids: Sequence[int]
    response_ids: np.ndarray
    response_text: str
    behaviour_logprobs: np.ndarray
    owned: np.ndarray
    finish_reason: Literal["stop", "length"]
    step: int
    weights: str
    """The policy version that sampled it."""
    candidate_ids: np.ndarray | None = None
    """`[T, C]` the student's most probable ids, if experts score them."""
    entropy_T: np.ndarray | None = None
    """`[T]` the student's entropy in nats, if an expert chooses positions by it."""
    episode: Episode | None = None
    """Turns and outcome, where it has several turns."""
    failure: str | None = None
    """Why the attempt ended early: a tool or an environment could not be reached. It is not
    judged, and not trained on."""
    given: bool = False
    """True for a given right answer, which is trained like a forced sequence."""

    @property
    def prompt(self) -> Prompt:
        """Messages and the ids that the student saw."""
        messages = tuple(Message.model_validate(m) for m in self.problem.messages)
        return Prompt(messages=messages, ids=np.asarray(self.prompt_ids, np.int32))

    def feedback_query(self, timeout_ms: int) -> FeedbackQuery:
        """The query to the feedback sources."""
        return FeedbackQuery(
            rollout_id=self.rollout_id,
            prompt=self.prompt,
            response_ids=self.response_ids,
            response_text=self.response_text,
            finish_reason=self.finish_reason,
            payload_sha256=self.payload_sha256,
            group_id=self.group_id,
            timeout_ms=timeout_ms,
            episode=self.episode,
        )

    def record(self, run: str, lineage: str, sampling: SamplingParams) -> RolloutRecord:
        """The provenance row."""
        drawn: dict[str, Any] = asdict(sampling)
        if self.episode is not None:
            drawn["episode"] = self.episode.model_dump(mode="json", exclude={"turns"})
        if self.failure is not None:
            drawn["failure"] = self.failure
        return RolloutRecord(
            rollout_id=self.rollout_id,
            run=run,
            lineage=lineage,
            step=self.step,
            problem_id=self.problem.id,
            group_id=self.group_id,
            prompt=self.prompt,
            response_ids=self.response_ids,
            response_text=self.response_text,
            behaviour_logprobs=self.behaviour_logprobs,
            owned=self.owned,
            weights=self.weights,
            finish_reason=self.finish_reason,
            sampling=drawn,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Attempt:
    """A rollout and its feedback items."""

    rollout: Rollout
    items: tuple[FeedbackItem, ...]
    task: Task
    """Computes score and success from the items."""
    unanswered: Mapping[str, str] = field(default_factory=dict[str, str])
    """Sources that gave no answer, by name at the gateway, and why."""
    cost: float = 0.0
    """Price of the answers about it that were not on record before."""

    @property
    def score(self) -> float | None:
        """The reward; None where no source gave one, or one that counts failed."""
        if isinstance(self.task, Counts) and any(s in self.unanswered for s in self.task.counted):
            return None
        return self.task.score(self.items)

    @property
    def solved(self) -> bool:
        """Whether it counts as a success; an unjudged attempt does not."""
        return self.score is not None and self.task.solved(self.items)

    @property
    def failures(self) -> dict[str, str]:
        """Sources whose judgement failed, and why."""
        errors = {item.source: item.error for item in self.items if item.error is not None}
        return {**self.unanswered, **errors}

    @property
    def failed(self) -> bool:
        """Whether it was judged and is not a success; an unjudged attempt is neither."""
        return self.score is not None and not self.solved
