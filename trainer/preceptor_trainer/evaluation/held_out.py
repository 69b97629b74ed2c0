"""Answers the held-out problems and has them graded, through the same services as in training."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from preceptor_trainer.collect.labelling import Labeller
from preceptor_trainer.collect.rollouts import Rollout
from preceptor_trainer.collect.student import RolloutRequest, Student
from preceptor_trainer.evaluation.pass_at_k import mean_interval, pass_at_k
from preceptor_trainer.kit.seeding import generator
from preceptor_trainer.sampling.params import SamplingParams
from preceptor_trainer.tasks.task import Problem

Grades = dict[tuple[int, str, str], bool]
"""Success by place of the problem, response text and finish reason."""


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How the held-out problems are answered, before and after."""

    problems: Sequence[Problem]
    """None of them is trained on."""
    num_samples: int = 16
    """Samples of each problem."""
    ks: tuple[int, ...] = (1, 8)
    """The k of pass@k."""
    sampling: SamplingParams = SamplingParams()
    """As in training, unless there is a reason."""
    batch_problems: int = 32
    """Problems answered at a time."""

    def __post_init__(self) -> None:
        if not self.problems:
            raise ValueError("problems: is empty")
        if max(self.ks) > self.num_samples:
            raise ValueError(f"ks: pass@{max(self.ks)} needs more than {self.num_samples} samples")


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """What the policy did on the held-out problems: `P` problems, `N` samples each."""

    weights: str
    problem_ids: tuple[str, ...]
    successes_PN: np.ndarray
    lengths_PN: np.ndarray
    seconds: float

    def summary(self, ks: Sequence[int], seed: int) -> dict[str, Any]:
        """pass@k with intervals over problems, and the mean length in tokens."""
        intervals = {
            f"pass@{k}": asdict(mean_interval(pass_at_k(self.successes_PN, k), seed=seed))
            for k in ks
        }
        num_problems, num_samples = self.successes_PN.shape
        return intervals | {
            "mean_length": float(self.lengths_PN.mean()),
            "num_problems": num_problems,
            "num_samples": num_samples,
        }

    def save(self, path: Path) -> None:
        """Writes the raw outcomes as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        values = {
            "weights": self.weights,
            "seconds": self.seconds,
            "problem_ids": list(self.problem_ids),
            "successes": self.successes_PN.astype(int).tolist(),
            "lengths": self.lengths_PN.tolist(),
        }
        path.write_text(json.dumps(values))

    @classmethod
    def load(cls, path: Path) -> Evaluation:
        """What `save` wrote."""
        values = json.loads(path.read_text())
        return cls(
            weights=values["weights"],
            seconds=values["seconds"],
            problem_ids=tuple(values["problem_ids"]),
            successes_PN=np.array(values["successes"], np.bool_),
            lengths_PN=np.array(values["lengths"], np.int32),
        )


async def evaluate(
    config: EvaluationConfig,
    student: Student,
    labeller: Labeller,
    *,
    weights: str,
    seed: int,
    on_progress: Callable[[int, int], None],
) -> Evaluation:
    """Samples and grades every held-out problem with the version that `student` holds.

    Raises:
        RuntimeError: a grade did not come; a missing grade is neither a success nor a failure.
    """
    began = time.monotonic()
    problems, grading = list(config.problems), list[asyncio.Task[Grades]]()
    rollouts: list[Rollout] = []
    # All at once: between batches they would wait behind the grades of the last one.
    payloads = [await labeller.put_payload(p.payload) for p in problems]
    async with asyncio.TaskGroup() as group:
        # The next batch is sampled while the last one is graded.
        for start in range(0, len(problems), config.batch_problems):
            batch = problems[start : start + config.batch_problems]
            new = await student.rollouts(
                RolloutRequest(
                    problems=batch,
                    payloads=payloads[start : start + len(batch)],
                    num_samples=config.num_samples,
                    params=config.sampling,
                    generator=generator(seed, "evaluation", start),
                    prefix=f"eval-{weights.replace('/', '-')}-{start}",
                    step=0,
                )
            )
            rollouts += new
            grading.append(group.create_task(_grade(labeller, new, start)))
            on_progress(start + len(batch), len(problems))
    grades = {key: ok for task in grading for key, ok in task.result().items()}
    shape = (len(problems), config.num_samples)
    per_batch = config.batch_problems * config.num_samples
    successes = [
        grades[_key(r, i // per_batch * config.batch_problems)] for i, r in enumerate(rollouts)
    ]
    return Evaluation(
        weights=weights,
        seconds=time.monotonic() - began,
        problem_ids=tuple(p.id for p in problems),
        successes_PN=np.array(successes, np.bool_).reshape(shape),
        lengths_PN=np.array([len(r.response_ids) for r in rollouts], np.int32).reshape(shape),
    )


async def _grade(labeller: Labeller, rollouts: Sequence[Rollout], start: int) -> Grades:
    """Equal answers to one problem are run once."""
    different = {_key(r, start): r for r in rollouts}
    attempts = await labeller.feedback(list(different.values()))
    grades: Grades = {}
    for key, attempt in zip(different, attempts, strict=True):
        if attempt.score is None:
            codes = dict(labeller.dropped) or [i.error for i in attempt.items]
            raise RuntimeError(f"{attempt.rollout.rollout_id} was not graded: {codes}")
        grades[key] = attempt.solved
    return grades


def _key(rollout: Rollout, start: int) -> tuple[int, str, str]:
    return start + rollout.group, rollout.response_text, rollout.finish_reason
