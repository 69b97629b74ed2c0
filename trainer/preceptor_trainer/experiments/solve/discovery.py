"""discovery@k: the chance that one of the first k attempts at a question succeeds.

For attempts that depend on each other there is one first success per trajectory, or none within its
attempts: then it is censored there. Over the seeds of a question the Kaplan-Meier estimate of
"not yet solved after k attempts" uses censored trajectories as long as they lasted; where all of
them lasted to k it is the plain share. For independent attempts (best-of-k) each seed gives the
unbiased `1 - C(n-c, k) / C(n, k)` from all its n draws. Curves are means over questions.

Intervals come from a bootstrap over questions, each with all its seeds: what a question's estimate
owes to its seeds is a part of how questions differ, and drawing seeds once more within a drawn
question would count it twice (such an interval covered in 150 of 150 synthetic experiments instead
of 95 %). The same questions serve all methods, so differences are paired. Nothing is said beyond
the k to which trajectories were allowed to go.

Dimensions: Q questions, K values of k.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from preceptor_trainer.evaluation.pass_at_k import pass_at_k
from preceptor_trainer.experiments.compare.statistics import (
    Estimate,
    estimate,
    from_counts,
    known_problems,
)
from preceptor_trainer.experiments.solve.trajectory import Trajectory


@dataclass(frozen=True, kw_only=True)
class Discovery:
    """discovery@k of one method."""

    ks: tuple[int, ...]
    levels: tuple[Estimate, ...]
    """One for each k."""
    mean_attempts: float
    """Attempts until the first success or the last k, whichever comes first (restricted mean)."""
    solved_questions: int
    """Questions that some seed solved within the last k."""


def discovery_curve(trajectories: Sequence[Trajectory], ks: Sequence[int]) -> NDArray[np.float64]:
    """discovery@k of one question.

    Args:
        trajectories: its seeds, of one method.
        ks: attempts, rising.

    Returns:
        [K]; NaN at a k that no seed reached with judged attempts.
    """
    if all(t.successes is not None for t in trajectories):
        return _unbiased(trajectories, ks)
    longest = max(ks[-1] if t.solved_at is not None else t.attempts for t in trajectories)
    return np.where(np.array(ks) <= longest, _kaplan_meier(trajectories, ks), np.nan)


def _unbiased(trajectories: Sequence[Trajectory], ks: Sequence[int]) -> NDArray[np.float64]:
    """The mean over the seeds with attempts enough, at each k."""
    rows_SK = np.full((len(trajectories), len(ks)), np.nan)
    for row_K, trajectory in zip(rows_SK, trajectories, strict=True):
        assert trajectory.successes is not None
        if ks[-1] > trajectory.attempts + trajectory.missing:
            raise ValueError(
                f"ks: {ks[-1]} is more than the {trajectory.attempts} attempts at "
                f"{trajectory.problem_id}"
            )
        outcomes = from_counts([trajectory.successes], trajectory.attempts)
        for i, k in enumerate(ks):
            if k <= trajectory.attempts:
                row_K[i] = pass_at_k(outcomes, k)[0]
    known_SK = ~np.isnan(rows_SK)
    if known_SK.all():
        return rows_SK.mean(0)
    total_K, count_K = np.where(known_SK, rows_SK, 0.0).sum(0), known_SK.sum(0)
    return np.divide(total_K, count_K, out=np.full(len(ks), np.nan), where=count_K > 0)


def _kaplan_meier(trajectories: Sequence[Trajectory], ks: Sequence[int]) -> NDArray[np.float64]:
    times = sorted({t.solved_at for t in trajectories if t.solved_at is not None})
    unsolved, steps = 1.0, list[tuple[int, float]]()
    for time in times:
        at_risk = sum(t.attempts >= time for t in trajectories)
        solved = sum(t.solved_at == time for t in trajectories)
        unsolved *= 1 - solved / at_risk
        steps.append((time, 1 - unsolved))
    return np.array([max((v for time, v in steps if time <= k), default=0.0) for k in ks])


def discovery(
    trajectories: Mapping[str, Sequence[Trajectory]], ks: Sequence[int], *, seed: int = 0
) -> tuple[dict[str, Discovery], dict[str, list[Estimate]]]:
    """Curves of all methods, and their paired differences.

    Args:
        trajectories: by method; the same questions for all, at least two.
        ks: attempts, rising; the last is where everything is censored.
        seed: of the resampling.

    Returns:
        One `Discovery` per method, and for every pair "a - b" the difference at each k. A question
        without grades enough for a k is left out of its mean, and a k to which fewer than two
        questions have grades is left out.

    Raises:
        ValueError: methods answered different questions, one ended before the last k, or no k has
            two questions.
    """
    questions = _questions(trajectories)
    grouped = {
        method: [[t for t in rows if t.problem_id == name] for name in questions]
        for method, rows in trajectories.items()
    }
    for rows in trajectories.values():
        _check_lasted(rows, ks[-1])
    tables = {m: np.stack([discovery_curve(own, ks) for own in g]) for m, g in grouped.items()}
    ks, tables = _known(ks, tables)
    curves: dict[str, Discovery] = {}
    for method, own_questions in grouped.items():
        means = [_restricted_mean(own, ks[-1]) for own in own_questions]
        curves[method] = Discovery(
            ks=tuple(ks),
            levels=tuple(_estimates(tables[method], seed)),
            mean_attempts=float(np.mean([mean for mean in means if not math.isnan(mean)])),
            solved_questions=sum(any(_solved(t, ks[-1]) for t in own) for own in own_questions),
        )
    differences = {
        f"{a} - {b}": _estimates(tables[a] - tables[b], seed) for a, b in combinations(tables, 2)
    }
    return curves, differences


def _known(
    ks: Sequence[int], tables: Mapping[str, NDArray[np.float64]]
) -> tuple[list[int], dict[str, NDArray[np.float64]]]:
    """The values of k for which two questions have an estimate by every method."""
    both_QK = ~np.any([np.isnan(values_QK) for values_QK in tables.values()], axis=0)
    enough_K = both_QK.sum(0) >= 2
    if not enough_K.any():
        raise ValueError("trajectories: fewer than two questions have a judged attempt")
    kept = [k for k, enough in zip(ks, enough_K, strict=True) if enough]
    return kept, {method: values_QK[:, enough_K] for method, values_QK in tables.items()}


def _estimates(values_QK: NDArray[np.float64], seed: int) -> list[Estimate]:
    return [estimate(known_problems(values_Q[None, :]), seed=seed) for values_Q in values_QK.T]


def _questions(trajectories: Mapping[str, Sequence[Trajectory]]) -> list[str]:
    by_method = {m: sorted({t.problem_id for t in rows}) for m, rows in trajectories.items()}
    first, *others = by_method.values()
    if any(other != first for other in others):
        raise ValueError(f"trajectories: {list(by_method)} answered different questions")
    if len(first) < 2:
        raise ValueError("trajectories: only one question; at least two are needed for an interval")
    return first


def _check_lasted(rows: Sequence[Trajectory], last: int) -> None:
    """Checks that at least one trajectory of each question lasted to the last k.

    Attempts without a grade were made.
    """
    longest: dict[str, int] = {}
    for t in rows:
        reached = last if t.solved_at is not None else t.attempts + t.missing
        longest[t.problem_id] = max(longest.get(t.problem_id, 0), reached)
    short = {name: reached for name, reached in longest.items() if reached < last}
    if short:
        raise ValueError(f"ks: {last} is beyond the last attempt at {short}")


def _solved(trajectory: Trajectory, last: int) -> bool:
    return trajectory.solved_at is not None and trajectory.solved_at <= last


def _restricted_mean(own: Sequence[Trajectory], last: int) -> float:
    """E[min(T, last)] = 1 + sum over k < last of the chance that k attempts do not suffice."""
    if last == 1:
        return 1.0
    return 1.0 + float((1 - discovery_curve(own, range(1, last))).sum())
