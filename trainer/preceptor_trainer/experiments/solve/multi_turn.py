"""Multi-turn: one attempt per turn, with the feedback on earlier attempts in the prompt.

The history holds feedback only, not the attempts (arXiv 2601.20802, section 5, found that better),
each text once, the newest last. When the prompt would exceed its budget of tokens, the oldest text
goes first. Questions run side by side: a turn is one batch over all that are unsolved.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from preceptor_clients.contract.schemas import FeedbackItem
from preceptor_clients.sdk.templates import COMPACT, FeedbackTemplate
from preceptor_trainer.collect.rollouts import Attempt
from preceptor_trainer.collect.student import RolloutRequest
from preceptor_trainer.experiments.solve.session import Session
from preceptor_trainer.experiments.solve.trajectory import Trajectory, say_unjudged
from preceptor_trainer.kit.seeding import generator
from preceptor_trainer.learner.policy import Policy
from preceptor_trainer.sampling.params import SamplingParams
from preceptor_trainer.tasks.task import Problem


@dataclass(frozen=True, kw_only=True)
class MultiTurn:
    """How the history is kept."""

    prompt_tokens: int = 240
    """Most tokens of a prompt, the question itself included."""
    template: FeedbackTemplate = COMPACT
    """Renders question and history."""
    sampling: SamplingParams = SamplingParams()
    """Of every attempt."""

    async def __call__(
        self, session: Session, problems: Sequence[Problem], *, seed: int, max_attempts: int
    ) -> list[Trajectory]:
        """Turns until every question is solved or has had its attempts."""
        began = time.monotonic()
        dialogues = [Dialogue(problem=problem, settings=self) for problem in problems]
        for turn in range(max_attempts):
            active = [d for d in dialogues if d.solved_at is None]
            if not active:
                break
            for dialogue, attempt in zip(
                active, await self._attempts(session, active, seed, turn), strict=True
            ):
                dialogue.take(attempt)
        seconds = (time.monotonic() - began) / len(problems)
        return [dialogue.trajectory(seed, seconds) for dialogue in dialogues]

    async def _attempts(
        self, session: Session, active: Sequence[Dialogue], seed: int, turn: int
    ) -> list[Attempt]:
        asked = [dialogue.asked(session.policy) for dialogue in active]
        payloads = [await session.labeller.put_payload(problem.payload) for problem in asked]
        rollouts = await session.student.rollouts(
            RolloutRequest(
                problems=asked,
                payloads=payloads,
                num_samples=1,
                params=self.sampling,
                generator=generator(seed, "multi-turn", turn),
                prefix=f"multi-turn-{seed}-{turn}",
                step=turn,
            )
        )
        return await session.labeller.feedback(rollouts)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question in one turn."""

    id: str
    messages: Sequence[dict[str, str]]
    payload: dict[str, Any]


@dataclass(kw_only=True)
class Dialogue:
    """One question with the feedback on its attempts."""

    problem: Problem
    settings: MultiTurn
    history: list[FeedbackItem] = field(default_factory=list[FeedbackItem])
    attempts: int = 0
    tokens: int = 0
    missing: int = 0
    solved_at: int | None = None

    def asked(self, policy: Policy) -> Asked:
        """The question with as much of the newest history as fits.

        Raises:
            ValueError: not even the question alone fits.
        """
        messages = self._messages()
        while len(policy.encode(messages)) > self.settings.prompt_tokens:
            if not self.history:
                raise ValueError(
                    f"prompt_tokens: {self.settings.prompt_tokens} are too few for question "
                    f"{self.problem.id}"
                )
            del self.history[0]
            messages = self._messages()
        return Asked(id=self.problem.id, messages=messages, payload=self.problem.payload)

    def take(self, attempt: Attempt) -> None:
        """Counts an attempt and stores its feedback; an unjudged one is counted apart."""
        self.tokens += len(attempt.rollout.response_ids)
        if attempt.score is None:
            self.missing += 1
            say_unjudged(attempt)
            return
        self.attempts += 1
        if attempt.solved:
            self.solved_at = self.attempts
            return
        for item in attempt.items:
            if item.text and item.expert_may_see:
                self.history = [old for old in self.history if old.text != item.text]
                self.history.append(item)

    def trajectory(self, seed: int, seconds: float) -> Trajectory:
        """The trajectory of the dialogue."""
        return Trajectory(
            method="multi-turn",
            problem_id=self.problem.id,
            seed=seed,
            attempts=self.attempts,
            solved_at=self.solved_at,
            tokens=self.tokens,
            seconds=seconds,
            missing=self.missing,
        )

    def _messages(self) -> list[dict[str, str]]:
        return self.settings.template.render(list(self.problem.messages), self.history)
