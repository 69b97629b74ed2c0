"""Best-of-k: independent attempts.

All k attempts are drawn even when an early one succeeds, because independent draws allow the
unbiased `1 - C(n-c, k) / C(n, k)`, which uses all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from preceptor_trainer.evaluation.held_out import EvaluationConfig, evaluate
from preceptor_trainer.experiments.solve.session import Session
from preceptor_trainer.experiments.solve.trajectory import Trajectory
from preceptor_trainer.tasks.task import Problem


async def best_of_k(
    session: Session, problems: Sequence[Problem], *, seed: int, max_attempts: int
) -> list[Trajectory]:
    """`max_attempts` fresh attempts at every question.

    Args:
        session: of the student.
        problems: the questions.
        seed: different from that of the samples that selected the questions.
        max_attempts: of each.
    """
    outcome = await evaluate(
        EvaluationConfig(
            problems=problems,
            num_samples=max_attempts,
            ks=(1,),
            batch_problems=max(1, 2048 // max_attempts),
        ),
        session.student,
        session.labeller,
        weights=f"best-of-k/{seed}",
        seed=seed,
        on_progress=lambda done, total: None,
    )
    rows: list[Trajectory] = []
    for i, problem in enumerate(problems):
        successes_N = outcome.successes_PN[i][outcome.graded_PN[i]]
        rows.append(
            Trajectory(
                method="best-of-k",
                problem_id=problem.id,
                seed=seed,
                attempts=len(successes_N),
                solved_at=int(np.argmax(successes_N)) + 1 if successes_N.any() else None,
                successes=int(successes_N.sum()),
                tokens=int(outcome.lengths_PN[i].sum()),
                seconds=outcome.seconds / len(problems),
                missing=max_attempts - len(successes_N),
            )
        )
    return rows
