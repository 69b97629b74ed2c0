"""The success rates of the student on many problems, and the hard tail among them.

A problem that can no longer be in the tail is not attempted further: most are solved within a few
attempts, and the tail is a few per cent.

Because the tail is selected by outcomes, it looks harder than it is, so methods are measured on it
with fresh samples. It depends only on the student's base rates, not on the methods.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from preceptor_clients.kit.files import write_whole
from preceptor_trainer.evaluation.held_out import EvaluationConfig, evaluate
from preceptor_trainer.experiments.compare.statistics import pass_at_k_of_counts
from preceptor_trainer.experiments.solve.session import Session
from preceptor_trainer.kit.seeding import derived_seed
from preceptor_trainer.tasks.programming_by_example.behaviour import Split
from preceptor_trainer.tasks.programming_by_example.problems import Problem, sample_problems

BASE_RATES: Final = "base_rates.json"
LEAST_SAMPLES: Final = 128
"""Least number of samples per problem to select a hard tail."""
LOOK: Final = 32
"""Attempts at every problem before it is looked at: the others go on with those that may still be
what is looked for."""
TAIL_K: Final = 64
TAIL_BELOW: Final = 0.5
"""The tail: problems whose estimated pass@`TAIL_K` is below this."""


@dataclass(frozen=True, kw_only=True)
class BaseRates:
    """Successes of one student on problems of one split."""

    split: Split
    problems_seed: int
    problem_ids: tuple[str, ...]
    successes_P: tuple[int, ...]
    attempts_P: tuple[int, ...]
    """`num_samples`, or `LOOK` where the successes among them were too many for the tail."""
    num_samples: int
    samples_seed: int
    student_sha256: str
    missing_P: tuple[int, ...] = ()
    """Attempts without a grade, by problem, which count neither way; empty where there are none."""

    def problems(self) -> list[Problem]:
        """The problems, made again.

        Raises:
            ValueError: the generator of problems has changed.
        """
        problems = sample_problems(self.split, count=len(self.problem_ids), seed=self.problems_seed)
        if tuple(problem.id for problem in problems) != self.problem_ids:
            raise ValueError(
                "problem_ids: the generator of problems has changed since these rates were measured"
            )
        return problems

    def check_student(self, folder: Path) -> None:
        """Checks that the rates were measured on this student.

        Raises:
            ValueError: they were measured on another student.
        """
        if self.student_sha256 != student_sha256(folder):
            raise ValueError(
                "student_sha256: these base rates are of another student than the one in "
                f"{folder}; measure them again"
            )

    def hard_tail(self) -> list[Problem]:
        """Problems whose pass@`TAIL_K`, estimated from `num_samples`, is below `TAIL_BELOW`.

        A problem with fewer than `TAIL_K` graded attempts is left out.

        Raises:
            ValueError: there were fewer than `LEAST_SAMPLES` samples of each.
        """
        if self.num_samples < LEAST_SAMPLES:
            raise ValueError(
                f"num_samples: {self.num_samples} are too few to choose a hard tail; "
                f"use at least {LEAST_SAMPLES}"
            )
        possible = in_tail(self.successes_P, self.num_samples, self.missing_P)
        return [problem for problem, is_in in zip(self.problems(), possible, strict=True) if is_in]

    def save(self, path: Path) -> None:
        """Writes them as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(asdict(self)) + "\n")


def load_base_rates(path: Path, *, split: Split) -> BaseRates:
    """What `save` wrote.

    Raises:
        ValueError: there are none, or of another split.
    """
    if not path.exists():
        raise ValueError(
            f"{path} is missing: `preceptor solve base-rates --split {split} --out {path.parent}` "
            "makes it"
        )
    value = json.loads(path.read_text())
    if value["split"] != split:
        raise ValueError(f"{path}: split is {value['split']!r}, not {split!r}")
    fields: dict[str, Any] = {
        **value,
        "problem_ids": tuple(value["problem_ids"]),
        "successes_P": tuple(value["successes_P"]),
        "attempts_P": tuple(value["attempts_P"]),
        "missing_P": tuple(value.get("missing_P", ())),
    }
    return BaseRates(**fields)


async def measure_base_rates(
    session: Session,
    *,
    split: Split,
    problems: Sequence[Problem],
    problems_seed: int,
    num_samples: int,
    samples_seed: int,
    console: Console,
) -> BaseRates:
    """Has attempts at every problem graded by the executor, in two looks.

    A success more never lowers an estimate, so a problem whose successes in the first look already
    lift it out of the tail stays out, whatever the other attempts would bring.
    """

    async def look(
        some: Sequence[Problem], samples: int, what: str
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Successes, and attempts without a grade."""

        def show(done: int, total: int) -> None:
            console.print(f"{what}: {done}/{total} problems", highlight=False)

        outcome = await evaluate(
            EvaluationConfig(problems=some, num_samples=samples, ks=(1,), batch_problems=16),
            session.student,
            session.labeller,
            # Part of the rollouts' names, which must not meet those of another measurement.
            weights=f"base-rates/{split}-{problems_seed}-{len(some)}x{samples}/{samples_seed}",
            seed=derived_seed(samples_seed, samples),
            on_progress=show,
        )
        return outcome.successes_PN.sum(1), (~outcome.graded_PN).sum(1)

    first = min(LOOK, num_samples)
    successes_P, missing_P = await look(problems, first, f"base rates, {first} attempts")
    attempts_P = np.full(len(problems), first)
    possible = in_tail(successes_P.tolist(), num_samples, missing_P.tolist())
    left = [i for i, is_in in enumerate(possible) if is_in]
    if num_samples > first and left:
        rest = num_samples - first
        some = [problems[i] for i in left]
        new_P, also_missing_P = await look(some, rest, f"base rates, the other {rest} attempts")
        successes_P[left] += new_P
        missing_P[left] += also_missing_P
        attempts_P[left] = num_samples
    return BaseRates(
        split=split,
        problems_seed=problems_seed,
        problem_ids=tuple(problem.id for problem in problems),
        successes_P=tuple(successes_P.tolist()),
        attempts_P=tuple(attempts_P.tolist()),
        num_samples=num_samples,
        samples_seed=samples_seed,
        student_sha256=student_sha256(session.policy.folder),
        missing_P=tuple(missing_P.tolist()) if missing_P.any() else (),
    )


def in_tail(
    successes_P: Sequence[int], num_samples: int, missing_P: Sequence[int] = ()
) -> NDArray[np.bool_]:
    """[P] bool: which would be in the tail if all other of `num_samples` attempts failed.

    Those without a grade (`missing_P`) count neither way.
    """
    if num_samples < TAIL_K:
        return np.ones(len(successes_P), np.bool_)
    found_P = pass_at_k_of_counts(successes_P, num_samples, TAIL_K, missing_P=missing_P)
    return found_P < TAIL_BELOW


def student_sha256(folder: Path) -> str:
    """Of the student's weights."""
    with (folder / "model.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
