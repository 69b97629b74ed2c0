"""Test-time self-distillation: the student is trained on the one question, from its own feedback.

It samples a group and has it judged. After a success it stops; otherwise it takes one step in which
the self-teacher has each attempt's own feedback in view (there is no solution to show), and samples
again. Source: arXiv 2601.20802, section 5. Every question and seed is a separate run, with its own
name space for weights at the gateway; the stages are those of the trainer's loop.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from preceptor_clients.http.gateway import GatewayClient
from preceptor_trainer.collect.context import PapersContext
from preceptor_trainer.collect.labelling import ExpertUse, Labelled
from preceptor_trainer.collect.participant import Participant, RunContext, StepContext
from preceptor_trainer.experiments.compare.budget import spent
from preceptor_trainer.experiments.solve.trajectory import Trajectory, say_unjudged
from preceptor_trainer.learner.learner import OptimiserConfig
from preceptor_trainer.loop import Trainer
from preceptor_trainer.objectives import Objective
from preceptor_trainer.objectives.distil import DistIL
from preceptor_trainer.run.config import RunConfig
from preceptor_trainer.run.watching.metrics_log import read_metrics
from preceptor_trainer.run.watching.progress import Progress
from preceptor_trainer.tasks.programming_by_example.task import PROGRAMMING
from preceptor_trainer.tasks.task import Problem


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
    """Settings of the training on one question."""

    objective: Objective = field(default_factory=_kl_to_go)
    """KL-to-go by default: with one prompt, CE-to-go would quickly shorten the answers."""
    lr: float = 2e-4
    """Learning rate, without warm-up: there are few steps."""
    group: int = 16
    """Attempts between two steps."""
    expert: str = "self-teacher"
    """The experts, with the attempt's own feedback in view."""

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
            evaluation=None,
            objective=self.objective,
            optimiser=OptimiserConfig(lr=self.lr),
            experts=(ExpertUse(name=self.expert),),
            task=PROGRAMMING,
            participants=(StopAtSuccess(max_attempts=max_attempts),),
            context=PapersContext(demonstrations=False),
        )


@dataclass(frozen=True, kw_only=True)
class StopAtSuccess:
    """Ends a run at its first success, or when its attempts are spent."""

    max_attempts: int

    @property
    def adds_rollouts(self) -> bool:
        """False: it only observes."""
        return False

    def join(self, run: RunContext) -> FirstSuccess:
        """The participant of one run."""
        return FirstSuccess(self.max_attempts, run.first_step)


class FirstSuccess(Participant):
    """Counts attempts until one succeeds."""

    def __init__(self, max_attempts: int, first_step: int) -> None:
        self._max_attempts = max_attempts
        self.first_step = first_step
        self.made = 0
        self.missing = 0
        """Attempts of this lineage that were not judged."""
        self.solved_at: int | None = None
        self.tokens = 0

    async def ends(self, at: StepContext, labelled: Sequence[Labelled]) -> bool:
        """True with a success among the attempts that count, or with the last of them."""
        before = at.step * len(labelled)
        self.tokens += sum(len(row.attempt.rollout.response_ids) for row in labelled)
        counted = labelled[: self._max_attempts - before]
        place = first_success(counted)
        self.made = min(before + len(labelled), self._max_attempts)
        for row in counted[:place]:
            if row.attempt.score is None:
                self.missing += 1
                say_unjudged(row.attempt)
        if place is not None:
            self.solved_at = before + place - self.missing
        return place is not None or self.made == self._max_attempts


def first_success(labelled: Sequence[Labelled]) -> int | None:
    """Place of the first success, from 1."""
    return next((n for n, row in enumerate(labelled, start=1) if row.attempt.solved), None)


async def discover(config: RunConfig, run_dir: Path, gateway: GatewayClient) -> Trajectory:
    """Alternates attempts and steps; after a restart it continues from its last checkpoint.

    Tokens and seconds are those of surviving steps: steps of an interrupted lineage after its last
    checkpoint are repeated. Unjudged attempts are those of the last lineage; those of earlier ones
    count as failed.
    """
    began = time.monotonic()
    trainer = Trainer(config, run_dir, gateway, Progress(Console(quiet=True)))
    await trainer.run()
    found = next(p for p in trainer.collector.participants if isinstance(p, FirstSuccess))
    earlier = [line for line in read_metrics(run_dir) if line["step"] <= found.first_step]
    return Trajectory(
        method="test-time",
        problem_id=config.problems(0)[0].id,
        seed=config.seed,
        attempts=found.solved_at or found.made - found.missing,
        solved_at=found.solved_at,
        tokens=found.tokens + round(spent(earlier, "tokens")),
        seconds=time.monotonic() - began + spent(earlier, "seconds"),
        missing=found.missing,
    )


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
    return await discover(config, run_dir, gateway)
