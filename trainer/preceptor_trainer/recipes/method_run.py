"""Settings that the runs of all compared methods share beside their trial."""

from __future__ import annotations

from typing import Any, Final

from preceptor_trainer.collect.context import PapersContext
from preceptor_trainer.collect.labelling import ExpertUse
from preceptor_trainer.experiments.compare.method import Trial
from preceptor_trainer.experiments.compare.services import self_teacher
from preceptor_trainer.learner.learner import OptimiserConfig
from preceptor_trainer.run.config import RunConfig
from preceptor_trainer.tasks.programming_by_example.task import PROGRAMMING

RATES: Final = (5e-5, 1.5e-4, 4.5e-4, 1.35e-3)
"""One grid for all: AdamW removes the scale of a loss, so equal rates make about equal steps."""
WARMUP_STEPS: Final = 4
IN_VIEW: Final = PapersContext(demonstrations=False, own_solution=True)
"""The context policy of all methods with a self-teacher: the quickstart's choice."""
SELF_TEACHER: Final = {"self-teacher": self_teacher()}


def run_of(trial: Trial, **decided: Any) -> RunConfig:
    """A run of `trial`; by default with the self-teacher and `IN_VIEW`."""
    fields: dict[str, Any] = {
        "name": trial.name,
        "seed": trial.seed,
        "steps": trial.steps,
        "model": trial.model,
        "problems": trial.problems,
        "rollouts_per_problem": trial.rollouts_per_problem,
        "checkpoint_every": trial.checkpoint_every,
        "evaluation": trial.evaluation,
        "optimiser": OptimiserConfig(
            lr=trial.lr,
            warmup_steps=WARMUP_STEPS,
            decay_until=trial.steps if trial.steps > WARMUP_STEPS else None,
        ),
        "experts": (ExpertUse(name="self-teacher"),),
        "task": PROGRAMMING,
        "context": IN_VIEW,
    }
    return RunConfig(**{**fields, **decided})
