"""How often the student solves each of many problems, and what follows: the hard tail.

Chosen by a look at outcomes, the tail looks harder than it is: whoever is measured on it is
measured on fresh samples. It is a function of the student's base rates alone, not of which method
solves what.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, cast

from rich.console import Console

from preceptor_trainer.compare.statistics import from_counts
from preceptor_trainer.config import EvaluationConfig
from preceptor_trainer.environments.programming_by_example.behaviour import Split
from preceptor_trainer.environments.programming_by_example.problems import Problem, sample_problems
from preceptor_trainer.evaluation import pass_at_k
from preceptor_trainer.held_out import evaluate
from preceptor_trainer.inference.session import Session

BASE_RATES: Final = "base_rates.json"
LEAST_SAMPLES: Final = 128
"""A hard tail is chosen by at least so many samples of each problem."""


@dataclass(frozen=True, kw_only=True)
class BaseRates:
    """Successes of one student on problems of one split."""

    split: Split
    problems_seed: int
    problem_ids: tuple[str, ...]
    successes_P: tuple[int, ...]
    num_samples: int
    samples_seed: int
    student_sha256: str

    def problems(self) -> list[Problem]:
        """The problems, made again.

        Raises:
            ValueError: the world has changed since.
        """
        problems = sample_problems(self.split, count=len(self.problem_ids), seed=self.problems_seed)
        if tuple(problem.id for problem in problems) != self.problem_ids:
            raise ValueError("problem_ids: the world has changed since these rates were measured")
        return problems

    def check_student(self, folder: Path) -> None:
        """Refuses to speak of another student than it was measured on.

        Raises:
            ValueError: it is another one.
        """
        if self.student_sha256 != student_sha256(folder):
            raise ValueError(
                "student_sha256: these base rates are of another student than the one in "
                f"{folder}; measure them again"
            )

    def hard_tail(self, *, k: int = 64, below: float = 0.5) -> list[Problem]:
        """Problems whose estimated pass@k is below a bound.

        Raises:
            ValueError: there were fewer than `LEAST_SAMPLES` samples of each.
        """
        if self.num_samples < LEAST_SAMPLES:
            raise ValueError(
                f"num_samples: {self.num_samples} are too few to choose a hard tail; "
                f"take at least {LEAST_SAMPLES}"
            )
        estimates = pass_at_k(from_counts(self.successes_P, self.num_samples), k)
        return [p for p, e in zip(self.problems(), estimates, strict=True) if e < below]

    def save(self, path: Path) -> None:
        """Writes them as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self)) + "\n")


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
    """Samples every problem and has the attempts graded by the executor."""

    def show(done: int, total: int) -> None:
        console.print(f"base rates: {done}/{total} problems", highlight=False)

    outcome = await evaluate(
        EvaluationConfig(problems=problems, num_samples=num_samples, ks=(1,), batch_problems=16),
        session.stage,
        session.asker,
        # Part of the rollouts' names, which must not meet those of another measurement.
        weights=f"base-rates/{split}-{problems_seed}-{num_samples}/{samples_seed}",
        seed=samples_seed,
        on_progress=show,
    )
    return BaseRates(
        split=split,
        problems_seed=problems_seed,
        problem_ids=outcome.problem_ids,
        successes_P=tuple(cast("list[int]", outcome.successes_PN.sum(1).tolist())),
        num_samples=num_samples,
        samples_seed=samples_seed,
        student_sha256=student_sha256(session.policy.folder),
    )


def student_sha256(folder: Path) -> str:
    """Of the student's weights."""
    with (folder / "model.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
