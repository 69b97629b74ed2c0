"""A few rows through every stage of a run but the optimiser's step.

    trainer = Trainer(trial_config(config, 4), folder, gateway, progress)
    trial = await tried(trainer, rows=config.problems.rows, views={"self-teacher": view})

What is drawn, judged and asked is what the run's first step would draw, judge and ask. Besides, the
teacher itself answers: with the prompts and the feedback that it sees, judged like the student.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from preceptor_clients.sdk.templates import FeedbackTemplate
from preceptor_trainer.collect.labelling import Labelled
from preceptor_trainer.collect.prompts import Fitted, fitted
from preceptor_trainer.collect.rollouts import Attempt, Rollout
from preceptor_trainer.kit.seeding import generator
from preceptor_trainer.learner.learner import StepResult
from preceptor_trainer.learner.policy import Policy
from preceptor_trainer.loop import Trainer
from preceptor_trainer.run.batching import batches_of
from preceptor_trainer.run.collecting import Collected
from preceptor_trainer.run.config import RunConfig
from preceptor_trainer.sampling.in_process import InProcessSampler
from preceptor_trainer.sampling.sampler import SampleRequest
from preceptor_trainer.tasks.task import Problem

NUM_BEST = 3
"""Best tokens of the student that are shown at a position."""


@dataclass(frozen=True, kw_only=True)
class TeacherView:
    """What a teacher on this machine reads and how it draws, to let it answer by itself."""

    template: FeedbackTemplate
    temperature: float = 1.0
    reads_feedback: bool = True
    policy: Policy | None = None
    """Its own model; None for the student's."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Taught:
    """One answer of a teacher."""

    teacher: str
    student_rollout_id: str
    """The attempt whose prompt and feedback it read."""
    prompt_ids: Sequence[int]
    attempt: Attempt


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """What the stages gave."""

    config: RunConfig
    policy: Policy
    fit: Fitted
    """How all training rows fit the longest prompt."""
    labelled: Sequence[Labelled]
    result: StepResult
    """The loss and its parts, as the first step would have them; no step is taken."""
    best: Mapping[str, np.ndarray]
    """`[T, NUM_BEST]` best ids of the student, by rollout id."""
    best_probs: Mapping[str, np.ndarray]
    """Their probabilities."""
    taught: Sequence[Taught]
    dropped: Mapping[str, int]
    """Missing answers by the problem's code."""
    reasons: Mapping[str, str]
    """The newest problem of each code, in words."""
    seconds: Mapping[str, float]
    """Time of each stage."""

    @property
    def attempts(self) -> list[Attempt]:
        """The student's attempts."""
        return [row.attempt for row in self.labelled]

    @property
    def num_tokens(self) -> int:
        """Tokens of all responses."""
        return sum(len(a.rollout.response_ids) for a in self.attempts)


def trial_config(config: RunConfig, num_rows: int) -> RunConfig:
    """The run's configuration for its first rows, without evaluation and participants."""
    problems: list[Problem] = []
    step = 0
    while len(problems) < num_rows:
        problems += config.problems(step)
        step += 1
    chosen = tuple(problems[:num_rows])

    def first_rows(step: int) -> Sequence[Problem]:
        del step
        return chosen

    return replace(
        config,
        steps=1,
        ranks=1,
        problems=first_rows,
        evaluation=None,
        participants=(),
        dynamic_sampling=None,
        optimiser=replace(config.optimiser, warmup_steps=0, decay_until=None),
    )


async def tried(
    trainer: Trainer, rows: Sequence[Problem], views: Mapping[str, TeacherView]
) -> Trial:
    """Takes the rows of `trainer.config` through the stages.

    Args:
        trainer: Of a configuration of `trial_config`, on a folder of its own.
        rows: All training rows, whose lengths are checked.
        views: The teachers that can answer by themselves, by name.
    """
    config = trainer.config
    await trainer.publisher.start(config, trainer.learner, trainer.journal)
    collected = await trainer.collector.collect(0)
    seconds = dict(collected.seconds)
    began = time.monotonic()
    updates = [row.train_rollout(on_policy=True) for row in collected.labelled]
    batches = batches_of(updates, config)
    result = trainer.learner.measure(batches, config.objective)
    seconds["loss"] = time.monotonic() - began
    dropped, reasons = dict(trainer.labeller.dropped), dict(trainer.labeller.reasons)
    began = time.monotonic()
    taught = [
        answer
        for name, view in views.items()
        for answer in await _taught(trainer, collected, name, view)
    ]
    seconds["teacher's own answers"] = time.monotonic() - began
    best = {
        row.attempt.rollout.rollout_id: _best(trainer.policy, row.attempt.rollout)
        for row in collected.labelled
    }
    return Trial(
        config=config,
        policy=trainer.policy,
        fit=fitted(rows, trainer.policy.encode, trainer.collector.prompt_limit),
        labelled=collected.labelled,
        result=result,
        best={name: ids for name, (ids, _) in best.items()},
        best_probs={name: probs for name, (_, probs) in best.items()},
        taught=taught,
        dropped=dropped,
        reasons=reasons,
        seconds=seconds,
    )


async def _taught(
    trainer: Trainer, collected: Collected, name: str, view: TeacherView
) -> list[Taught]:
    """One answer of the teacher for each attempt that it is asked about, judged."""
    rows = [row for row in collected.labelled if row.in_view.items or not view.reads_feedback]
    if not rows:
        return []
    policy = view.policy or trainer.policy
    prompts = [_teacher_prompt(policy, row, view) for row in rows]
    sampler = InProcessSampler(
        policy.model, end_ids=policy.end_ids, pad_id=policy.pad_id, vocab_size=policy.vocab_size
    )
    groups = await sampler.sample(
        SampleRequest(
            prompts=prompts,
            params=replace(trainer.config.sampling, temperature=view.temperature),
            generator=generator(trainer.config.seed, f"trial-{name}", 0),
        )
    )
    answers = [
        replace(
            row.attempt.rollout,
            rollout_id=f"{row.attempt.rollout.rollout_id}-{name}",
            response_ids=answer.response_ids,
            response_text=policy.decode(answer.response_ids.tolist()),
            behaviour_logprobs=answer.logprobs,
            owned=np.ones(len(answer.response_ids), np.bool_),
            finish_reason=answer.finish_reason,
            candidate_ids=None,
            entropy_T=None,
        )
        for row, [answer] in zip(rows, groups, strict=True)
    ]
    await trainer.journal.record_rollouts(answers, trainer.publisher.lineage)
    judged = await trainer.labeller.feedback(answers)
    return [
        Taught(
            teacher=name,
            student_rollout_id=row.attempt.rollout.rollout_id,
            prompt_ids=ids,
            attempt=attempt,
        )
        for row, ids, attempt in zip(rows, prompts, judged, strict=True)
    ]


def _teacher_prompt(policy: Policy, row: Labelled, view: TeacherView) -> list[int]:
    items = row.in_view.items if view.reads_feedback else ()
    return policy.encode(view.template.render(row.attempt.rollout.problem.messages, items))


@torch.no_grad()
def _best(policy: Policy, rollout: Rollout) -> tuple[np.ndarray, np.ndarray]:
    """The student's best ids and their probabilities at every position, each [T, NUM_BEST]."""
    model: Any = policy.model
    ids = [*rollout.prompt_ids, *rollout.response_ids.tolist()]
    inputs = torch.tensor([ids[:-1]], device=next(policy.model.parameters()).device)
    logits_TV = model(inputs, logits_to_keep=len(rollout.response_ids)).logits[0]
    probs_TV = logits_TV[:, : policy.vocab_size].float().softmax(-1)
    best = probs_TV.topk(min(NUM_BEST, probs_TV.shape[1]), dim=-1)
    return best.indices.cpu().numpy(), best.values.cpu().numpy()
