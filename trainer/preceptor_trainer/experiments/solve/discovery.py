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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from preceptor_trainer.evaluation.pass_at_k import pass_at_k
from preceptor_trainer.experiments.compare.statistics import Estimate, estimate, from_counts
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
        [K].
    """
    if all(t.successes is not None for t in trajectories):
        return np.array([_unbiased(t, ks) for t in trajectories]).mean(0)
    return _kaplan_meier(trajectories, ks)


def _unbiased(trajectory: Trajectory, ks: Sequence[int]) -> list[float]:
    assert trajectory.successes is not None
    if ks[-1] > trajectory.attempts:
        raise ValueError(
            f"ks: {ks[-1]} is more than the {trajectory.attempts} attempts at "
            f"{trajectory.problem_id}"
        )
    outcomes = from_counts([trajectory.successes], trajectory.attempts)
    return [float(pass_at_k(outcomes, k)[0]) for k in ks]


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
        One `Discovery` per method, and for every pair "a - b" the difference at each k.

    Raises:
        ValueError: methods answered different questions, or one ended before the last k.
    """
    questions = _questions(trajectories)
    curves: dict[str, Discovery] = {}
    tables: dict[str, NDArray[np.float64]] = {}
    for method, rows in trajectories.items():
        _check_lasted(rows, ks[-1])
        grouped = [[t for t in rows if t.problem_id == name] for name in questions]
        tables[method] = np.stack([discovery_curve(own, ks) for own in grouped])
        curves[method] = Discovery(
            ks=tuple(ks),
            levels=tuple(_estimates(tables[method], seed)),
            mean_attempts=float(np.mean([_restricted_mean(own, ks[-1]) for own in grouped])),
            solved_questions=sum(any(_solved(t, ks[-1]) for t in own) for own in grouped),
        )
    differences = {
        f"{a} - {b}": _estimates(tables[a] - tables[b], seed) for a, b in combinations(tables, 2)
    }
    return curves, differences


def _estimates(values_QK: NDArray[np.float64], seed: int) -> list[Estimate]:
    return [estimate(values_Q[None, :], seed=seed) for values_Q in values_QK.T]


def _questions(trajectories: Mapping[str, Sequence[Trajectory]]) -> list[str]:
    by_method = {m: sorted({t.problem_id for t in rows}) for m, rows in trajectories.items()}
    first, *others = by_method.values()
    if any(other != first for other in others):
        raise ValueError(f"trajectories: {list(by_method)} answered different questions")
    if len(first) < 2:
        raise ValueError("trajectories: only one question; at least two are needed for an interval")
    return first


def _check_lasted(rows: Sequence[Trajectory], last: int) -> None:
    """Checks that at least one trajectory of each question lasted to the last k."""
    longest: dict[str, int] = {}
    for t in rows:
        reached = last if t.solved_at is not None else t.attempts
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
