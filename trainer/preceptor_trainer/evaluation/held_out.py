"""Samples answers to held-out problems and grades them with the services of the training."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from preceptor_clients.kit.files import write_whole
from preceptor_trainer.collect.labelling import Labeller
from preceptor_trainer.collect.rollouts import Attempt, Rollout
from preceptor_trainer.collect.student import RolloutRequest, Student
from preceptor_trainer.evaluation.pass_at_k import (
    Interval,
    mean_interval,
    paired_difference,
    pass_at_k,
)
from preceptor_trainer.evaluation.samples import Sample
from preceptor_trainer.kit.seeding import generator
from preceptor_trainer.kit.together import together
from preceptor_trainer.sampling.params import SamplingParams
from preceptor_trainer.tasks.task import Problem

_log: Final = logging.getLogger("preceptor.trainer")

_Answer = tuple[int, str, str, str]
"""Index of the problem, response text, finish reason, and what else decides about the grade."""
_Judged = dict[_Answer, Attempt]


class NotGraded(RuntimeError):
    """So many grades are missing that nothing can be estimated."""


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How the held-out problems are sampled, before and after training."""

    problems: Sequence[Problem]
    """Held-out problems; they must not be trained on."""
    num_samples: int = 16
    """Samples of each problem."""
    ks: tuple[int, ...] = (1, 8)
    """The k of pass@k."""
    sampling: SamplingParams = SamplingParams()
    """How tokens are drawn; by default as in training."""
    batch_problems: int = 32
    """Problems sampled at a time."""
    every: int | None = None
    """Steps between evaluations beside those before and after; None for these two alone."""

    def __post_init__(self) -> None:
        if not self.problems:
            raise ValueError("problems: is empty")
        if max(self.ks) > self.num_samples:
            raise ValueError(f"ks: pass@{max(self.ks)} needs more than {self.num_samples} samples")
        if self.every is not None and self.every < 1:
            raise ValueError(f"every: must be at least 1, not {self.every}")

    def is_due(self, step: int) -> bool:
        """Whether the version that begins `step` is evaluated, beside the first and the last."""
        return self.every is not None and step > 0 and step % self.every == 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """Results on the held-out problems: `P` problems, `N` samples each."""

    weights: str
    problem_ids: tuple[str, ...]
    successes_PN: np.ndarray
    """Successes; false also for samples without a grade."""
    graded_PN: np.ndarray
    """Samples with a grade; a sample without one is neither a success nor a failure."""
    lengths_PN: np.ndarray
    seconds: float
    samples: tuple[Sample, ...] = ()
    """What was answered; not part of what `save` writes."""

    @property
    def num_ungraded(self) -> int:
        """Number of samples without a grade."""
        return int((~self.graded_PN).sum())

    @property
    def solved_share(self) -> float:
        """Share of successes among the samples with a grade."""
        return float(self.successes_PN[self.graded_PN].mean())

    def pass_at(self, k: int) -> np.ndarray:
        """`[P]` pass@k; NaN where fewer than k samples of a problem have a grade."""
        return pass_at_k(self.successes_PN, k, graded_PN=self.graded_PN)

    def summary(self, ks: Sequence[int], seed: int) -> dict[str, Any]:
        """pass@k with intervals over problems, and the mean length in tokens."""
        intervals = {
            f"pass@{k}": asdict(mean_interval(_known(self.pass_at(k)), seed=seed)) for k in ks
        }
        num_problems, num_samples = self.successes_PN.shape
        return intervals | {
            "mean_length": float(self.lengths_PN.mean()),
            "num_problems": num_problems,
            "num_samples": num_samples,
            "ungraded": self.num_ungraded,
        }

    def mean_pass_at(self, ks: Sequence[int]) -> dict[str, float]:
        """Mean pass@k by name, over the problems whose samples have grades enough."""
        found = {f"pass@{k}": self.pass_at(k) for k in ks}
        known = {name: pass_P[~np.isnan(pass_P)] for name, pass_P in found.items()}
        return {name: float(pass_P.mean()) for name, pass_P in known.items() if len(pass_P)}

    def save(self, path: Path) -> None:
        """Writes the raw outcomes as JSON."""
        values = {
            "weights": self.weights,
            "seconds": self.seconds,
            "problem_ids": list(self.problem_ids),
            "successes": self.successes_PN.astype(int).tolist(),
            "graded": self.graded_PN.astype(int).tolist(),
            "lengths": self.lengths_PN.tolist(),
        }
        write_whole(path, json.dumps(values))

    @classmethod
    def load(cls, path: Path) -> Evaluation:
        """What `save` wrote."""
        values = json.loads(path.read_text())
        return cls(
            weights=values["weights"],
            seconds=values["seconds"],
            problem_ids=tuple(values["problem_ids"]),
            successes_PN=np.array(values["successes"], np.bool_),
            # Files of earlier versions have a grade for every sample.
            graded_PN=np.array(values.get("graded", np.ones_like(values["successes"])), np.bool_),
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

    A sample without a grade counts neither as a success nor as a failure.

    Raises:
        NotGraded: so many grades are missing that pass@k has no estimate for any problem.
    """
    began = time.monotonic()
    problems, grading = list(config.problems), list[asyncio.Task[_Judged]]()
    rollouts: list[Rollout] = []
    # All payloads first: between batches they would wait for the grades of the batch before.
    payloads = [await labeller.put_payload(p.payload) for p in problems]
    async with together() as tasks:
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
            grading.append(tasks.create_task(_grade(labeller, new, start)))
            on_progress(start + len(batch), len(problems))
    judged = {key: attempt for task in grading for key, attempt in task.result().items()}
    shape = (len(problems), config.num_samples)
    per_batch = config.batch_problems * config.num_samples
    keys = [_key(r, i // per_batch * config.batch_problems) for i, r in enumerate(rollouts)]
    found = [_grade_of(judged[key]) for key in keys]
    result = Evaluation(
        weights=weights,
        seconds=time.monotonic() - began,
        problem_ids=tuple(p.id for p in problems),
        successes_PN=np.array([grade is True for grade in found], np.bool_).reshape(shape),
        graded_PN=np.array([grade is not None for grade in found], np.bool_).reshape(shape),
        lengths_PN=np.array([len(r.response_ids) for r in rollouts], np.int32).reshape(shape),
        samples=tuple(_sample(judged[key], count) for key, count in Counter(keys).items()),
    )
    if np.isnan(result.pass_at(max(config.ks))).all():
        raise NotGraded(
            f"{result.num_ungraded} of {len(found)} samples were not graded, so pass@"
            f"{max(config.ks)} has no estimate: {dict(labeller.dropped) or 'no answers came'}"
        )
    return result


async def _grade(labeller: Labeller, rollouts: Sequence[Rollout], start: int) -> _Judged:
    """Grades rollouts; equal answers to one problem are run once."""
    different = {_key(r, start): r for r in rollouts}
    attempts = await labeller.feedback(list(different.values()))
    for attempt in attempts:
        if attempt.score is None:
            failed = attempt.rollout.failure
            reasons = failed or [item.error for item in attempt.items] or dict(labeller.dropped)
            _log.warning("%s was not graded: %s", attempt.rollout.rollout_id, reasons)
    return dict(zip(different, attempts, strict=True))


def _grade_of(attempt: Attempt) -> bool | None:
    """Success; None without a grade."""
    return None if attempt.score is None else attempt.solved


def _sample(attempt: Attempt, count: int) -> Sample:
    rollout = attempt.rollout
    said = [item.error or item.text for item in attempt.items]
    return Sample(
        problem=rollout.problem.id,
        prompt=rollout.problem.messages[-1]["content"],
        response=rollout.response_text,
        count=count,
        finish_reason=rollout.finish_reason,
        solved=_grade_of(attempt),
        score=attempt.score,
        says="\n".join(text for text in said if text),
    )


def paired_gain(before: Evaluation, after: Evaluation, k: int, *, seed: int) -> Interval:
    """The gain in pass@k, over the problems with an estimate before and after."""
    first_P, second_P = before.pass_at(k), after.pass_at(k)
    both_P = ~np.isnan(first_P) & ~np.isnan(second_P)
    return paired_difference(first_P[both_P], second_P[both_P], seed=seed)


def _known(values_P: np.ndarray) -> np.ndarray:
    return values_P[~np.isnan(values_P)]


def _key(rollout: Rollout, start: int) -> _Answer:
    # An environment judged this very attempt, and a failed one is judged by nobody.
    is_own = rollout.failure is not None or (
        rollout.episode is not None and rollout.episode.environment is not None
    )
    own = rollout.rollout_id if is_own else ""
    return start + rollout.group, rollout.response_text, rollout.finish_reason, own
