"""Comparisons on the programming-by-example task: functions of the folder that they run in.

    preceptor compare fast
    preceptor solve never-solved --out runs/compare/all_fail
    preceptor compare all_fail --out runs/compare/all_fail

Budgets and sizes are chosen so that a run of `fast` takes up to a minute and a half on two idle
cores.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from preceptor_trainer.evaluation.held_out import EvaluationConfig
from preceptor_trainer.experiments.compare.budget import Budget
from preceptor_trainer.experiments.compare.method import Method
from preceptor_trainer.experiments.compare.plan import Comparison, Setting
from preceptor_trainer.experiments.solve.never_solved import load_never_solved
from preceptor_trainer.recipes import methods as m
from preceptor_trainer.recipes.baselines import LARGER_DIR
from preceptor_trainer.recipes.problem_streams import Fixed, Fresh
from preceptor_trainer.recipes.quickstart import HELD_OUT_SEED
from preceptor_trainer.tasks.programming_by_example.behaviour import Split
from preceptor_trainer.tasks.programming_by_example.problems import sample_problems

__all__ = ["all_fail", "fast"]

PROBE_SEED: Final = 3_001
VALIDATION_SEED: Final = 3_002


def fast(folder: Path) -> Comparison:
    """All methods on fresh problems, up to a minute and a half for each run.

    Pass@64 shows what pass@1 does not: a method that only sharpens the policy gains at one try and
    loses at many.
    """
    del folder  # not needed
    return Comparison(
        name="fast",
        question="Which methods learn from an executor's feedback in this world, who gains at 1, 8 "
        "and 64 tries, and at what cost, with the same student, problems, budget and search?",
        methods=all_methods(),
        setting=Setting(
            problems=Fresh(per_step=16),
            validation=_evaluation("validation", VALIDATION_SEED, count=60, num_samples=8),
            held_out=_evaluation("held_out", HELD_OUT_SEED, count=100, num_samples=64),
            probe=_probe(),
            probe_every=5,
            rollouts_per_problem=4,
        ),
        budget=Budget(unit="steps", amount=20),
        ks=(1, 8, 64),
    )


def all_fail(folder: Path) -> Comparison:
    """Training on problems that the student never solved in many attempts.

    Measured by fresh attempts at the same problems. The attempts that selected the problems are not
    counted, because selection by failures would look like an improvement.
    """
    found = load_never_solved(folder, split="train")
    unsolved = found.problems()
    return Comparison(
        name="all_fail",
        question=f"Which methods learn on {len(unsolved)} training problems that the student "
        f"solved in none of {found.attempts} attempts?",
        methods=all_methods(),
        setting=Setting(
            problems=Fixed(problems=unsolved, per_step=min(16, len(unsolved))),
            validation=_evaluation("validation", VALIDATION_SEED, count=60, num_samples=8),
            held_out=EvaluationConfig(problems=unsolved, num_samples=16, ks=(1, 8)),
            probe=EvaluationConfig(problems=unsolved[:40], num_samples=4, ks=(1,)),
            probe_every=5,
            rollouts_per_problem=4,
        ),
        budget=Budget(unit="steps", amount=20),
    )


def all_methods() -> tuple[Method, ...]:
    """Every method; with a teacher made of the student where there is no larger model.

    The substitutes have other names, so that reports do not confuse them with the originals.
    """
    larger = (
        (m.RLAD, m.GKD) if (LARGER_DIR / "config.json").is_file() else (m.RLAD_SELF, m.GKD_SELF)
    )
    return (
        m.DISTIL, m.DISTIL_LOCAL, m.REMAINING, m.KL_TO_GO, m.SDPO, m.OPSD, *larger, m.GRPO, m.SFT,
        m.WITHHELD,
    )  # fmt: skip


def _evaluation(split: Split, seed: int, *, count: int, num_samples: int) -> EvaluationConfig:
    return EvaluationConfig(
        problems=sample_problems(split, count=count, seed=seed), num_samples=num_samples, ks=(1, 8)
    )


def _probe() -> EvaluationConfig:
    return EvaluationConfig(
        problems=sample_problems("validation", count=48, seed=PROBE_SEED), num_samples=4, ks=(1,)
    )
