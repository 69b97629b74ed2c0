"""The quickstart: the shipped student learns to program by example from an executor's feedback.

The self-teacher is the student's own moving average with feedback in view: the trace of a failed
attempt, or the attempt itself where it succeeded. DistIL with the exact sequence-level gradient
trains the student towards it.

docs/decisions/0009-the-quickstarts-recipe.md has the reasons for the settings.

    preceptor quickstart --seed 0
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from preceptor_trainer.collect.context import NothingInView, PapersContext
from preceptor_trainer.collect.labelling import ExpertUse
from preceptor_trainer.evaluation.held_out import EvaluationConfig
from preceptor_trainer.kit.seeding import derived_seed
from preceptor_trainer.learner.learner import OptimiserConfig
from preceptor_trainer.objectives.distil import DistIL
from preceptor_trainer.run.config import RunConfig
from preceptor_trainer.student import STUDENT_DIR
from preceptor_trainer.tasks.programming_by_example.problems import Problem, sample_problems
from preceptor_trainer.tasks.programming_by_example.task import PROGRAMMING

HELD_OUT_SEED: Final = 2026
"""The same held-out problems for every seed, so that runs can be compared problem by problem."""

TYPICAL_LENGTH: Final = 24.0
"""Tokens of a typical response. The loss is divided by it and by the number of rollouts."""


@dataclass(frozen=True, kw_only=True)
class TrainProblems:
    """New problems for each step."""

    seed: int
    per_step: int = 32

    def __call__(self, step: int) -> Sequence[Problem]:
        return sample_problems(
            "train", count=self.per_step, seed=derived_seed(self.seed, "problems", step)
        )


def quickstart(
    *,
    name: str = "quickstart",
    seed: int = 0,
    steps: int = 40,
    problems_per_step: int = 32,
    rollouts_per_problem: int = 4,
    held_out: int = 200,
    num_samples: int = 16,
    checkpoint_every: int = 10,
    withhold_feedback: bool = False,
) -> RunConfig:
    """The quickstart's run.

    Args:
        name: Name of the run.
        seed: Seed of problems and samples.
        steps: Optimiser steps.
        problems_per_step: Groups in one step.
        rollouts_per_problem: Size of a group.
        held_out: Held-out problems.
        num_samples: Samples of each held-out problem.
        checkpoint_every: Steps between checkpoints.
        withhold_feedback: The control arm: the same expert without feedback in view.
    """
    return RunConfig(
        name=name,
        seed=seed,
        steps=steps,
        model=STUDENT_DIR,
        problems=TrainProblems(seed=seed, per_step=problems_per_step),
        rollouts_per_problem=rollouts_per_problem,
        checkpoint_every=checkpoint_every,
        evaluation=EvaluationConfig(
            problems=sample_problems("held_out", count=held_out, seed=HELD_OUT_SEED),
            num_samples=num_samples,
            ks=(1, 8) if num_samples >= 8 else (1,),
        ),
        objective=DistIL(length_constant=TYPICAL_LENGTH),
        optimiser=OptimiserConfig(lr=2e-4, warmup_steps=steps // 10, decay_until=max(steps, 1)),
        experts=(ExpertUse(name="self-teacher", needs_feedback=not withhold_feedback),),
        task=PROGRAMMING,
        context=NothingInView()
        if withhold_feedback
        else PapersContext(demonstrations=False, own_solution=True),
    )
