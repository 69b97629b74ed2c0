"""Test-time self-distillation: the student is trained on the one question, from its own feedback.

Sample a group, have it judged; on a success stop, else take one step in which the self-teacher sees
each attempt's own feedback (there is no solution to show), and sample again. Source: arXiv
2601.20802, section 5. Every question and seed is a run of its own, with a name space of its own for
weights at the gateway; the loop's stages are the trainer's.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from preceptor_clients.http.clients import GatewayClient
from preceptor_trainer.collect.context import PapersContext
from preceptor_trainer.collect.labelling import ExpertUse
from preceptor_trainer.collect.rollouts import Problem
from preceptor_trainer.experiments.compare.budget import spent
from preceptor_trainer.experiments.solve.trajectory import Trajectory
from preceptor_trainer.learner.learner import OptimiserConfig
from preceptor_trainer.loop import Collected, Trainer
from preceptor_trainer.objectives import Objective
from preceptor_trainer.objectives.distil import DistIL
from preceptor_trainer.run.config import EvaluationConfig, RunConfig
from preceptor_trainer.run.metrics_log import MetricsLog, read_metrics
from preceptor_trainer.run.progress import Progress


@dataclass(frozen=True, kw_only=True)
class OneQuestion:
    """The same problem at every step."""

    problem: Problem

    def __call__(self, step: int) -> Sequence[Problem]:
        """That problem."""
        return [self.problem]


def _kl_to_go() -> Objective:
    return DistIL(future="kl", length_constant=24.0)


@dataclass(frozen=True, kw_only=True)
class SelfDistillation:
    """How a question is trained on."""

    objective: Objective = field(default_factory=_kl_to_go)
    """KL-to-go by default: with one prompt, the pull of CE-to-go to short answers adds up fast."""
    lr: float = 2e-4
    """Learning rate, without warm-up: there are few steps."""
    group: int = 16
    """Attempts between two steps."""
    expert: str = "self-teacher"
    """Who is asked, with the attempt's own feedback in view."""

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ValueError(f"lr: must be positive, not {self.lr}")
        if self.group < 1:
            raise ValueError(f"group: must be at least 1, not {self.group}")

    def config(
        self, problem: Problem, *, name: str, seed: int, max_attempts: int, model: Path
    ) -> RunConfig:
        """The run of one question."""
        return RunConfig(
            name=name,
            seed=seed,
            steps=-(-max_attempts // self.group),
            model=model,
            problems=OneQuestion(problem=problem),
            rollouts_per_problem=self.group,
            # A question being trained on is judged by its attempts alone.
            evaluation=EvaluationConfig(problems=[problem], num_samples=1, ks=(1,)),
            objective=self.objective,
            optimiser=OptimiserConfig(lr=self.lr),
            experts=(ExpertUse(name=self.expert),),
            sources=("executor",),
            context=PapersContext(demonstrations=False),
        )


class QuestionTrainer(Trainer):
    """A trainer that stops at the first success."""

    async def discover(self, *, max_attempts: int) -> Trajectory:
        """Attempts and steps in turn; started again, it goes on from its last checkpoint.

        Tokens and seconds are those of the steps that count: what an interrupted life took after
        its last checkpoint is taken again.

        Raises:
            RuntimeError: an attempt was not judged.
        """
        began = time.monotonic()
        position = await self.publisher.start(self.config, self.learner, self.journal)
        made, solved_at, tokens = position.step * self.config.rollouts_per_problem, None, 0
        with MetricsLog(self.run_dir, first_step=position.step) as self.metrics:
            for step in range(position.step, self.config.steps):
                batch = await self.collect(step)
                tokens += sum(len(r.attempt.rollout.response_ids) for r in batch.labelled)
                place = first_success(batch, limit=max_attempts - made)
                made = min(made + len(batch.labelled), max_attempts)
                if place is not None:
                    solved_at = step * self.config.rollouts_per_problem + place
                    break
                if made < max_attempts:
                    await self.train(batch)
        earlier = [line for line in read_metrics(self.run_dir) if line["step"] < position.step]
        return Trajectory(
            method="test-time",
            problem_id=self.config.problems(0)[0].id,
            seed=self.config.seed,
            attempts=solved_at or made,
            solved_at=solved_at,
            tokens=tokens + round(spent(earlier, "tokens")),
            seconds=time.monotonic() - began + spent(earlier, "seconds"),
        )


def first_success(batch: Collected, *, limit: int) -> int | None:
    """Place of the first success among the first `limit` attempts of a group, from 1."""
    for place, row in enumerate(batch.labelled[:limit], start=1):
        if row.attempt.score is None:
            why = [item.error for item in row.attempt.items] or "no source answered"
            raise RuntimeError(f"{row.attempt.rollout.rollout_id} was not judged: {why}")
        if row.attempt.score >= 0.5:
            return place
    return None


async def self_distil(
    settings: SelfDistillation,
    gateway: GatewayClient,
    problem: Problem,
    *,
    run_dir: Path,
    seed: int,
    max_attempts: int,
    model: Path,
) -> Trajectory:
    """One question, trained on until it is solved or its attempts are spent."""
    run_dir.mkdir(parents=True, exist_ok=True)
    config = settings.config(
        problem, name=run_dir.name, seed=seed, max_attempts=max_attempts, model=model
    )
    trainer = QuestionTrainer(config, run_dir, gateway, Progress(Console(quiet=True)))
    return await trainer.discover(max_attempts=max_attempts)
