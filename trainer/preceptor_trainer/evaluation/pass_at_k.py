"""Pass@k and its uncertainty, over problems and seeds.

    before, after = pass_at_k(before_PN, 1), pass_at_k(after_PN, 1)
    paired_difference(before, after, seed=0)        # Interval(mean, low, high)

`pass@k = 1 - C(n-c, k) / C(n, k)` for c successes among n samples of a problem is unbiased for the
chance that at least one of k fresh samples succeeds; `1 - (1 - c/n)^k` is not.

Dimensions: S seeds (training runs), P problems, N samples of one problem. Intervals are percentile
bootstraps. Problems are resampled once for all seeds, because every seed has the same problems;
seeds are resampled too when there are several. With few seeds such an interval is still too narrow,
so report their number.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean and the bounds of its bootstrap interval."""

    mean: float
    low: float
    high: float


def pass_at_k(
    successes_PN: ArrayLike, k: int, *, graded_PN: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Unbiased pass@k of every problem.

    Args:
        successes_PN: [..., P, N] bool or 0/1, one entry per sample.
        k: samples that a user would draw, at most N.
        graded_PN: of the same shape, false where a sample has no grade and counts neither way.

    Returns:
        [..., P] probabilities; NaN where fewer than k samples have a grade.

    Raises:
        ValueError: k outside 1..N, or entries other than 0 and 1.
    """
    successes = np.asarray(successes_PN)
    num_samples = successes.shape[-1]
    if not 1 <= k <= num_samples:
        raise ValueError(f"k must be between 1 and the {num_samples} samples, not {k}")
    if not np.isin(successes, (0, 1)).all():
        raise ValueError("successes must be 0 or 1")
    graded: NDArray[np.bool_] = np.ones(successes.shape, np.bool_)
    if graded_PN is not None:
        graded = np.asarray(graded_PN, np.bool_)
    num_graded: NDArray[np.int64] = graded.sum(-1)
    num_failed = num_graded - (successes.astype(np.bool_) & graded).sum(-1)
    # C(n-c, k) / C(n, k) as a product of k factors: no large binomials, and 0 once n-c < k.
    steps = np.arange(k)
    enough = num_graded >= k
    drawn_from = np.where(enough, num_graded, num_samples)
    factors = (num_failed[..., None] - steps) / (drawn_from[..., None] - steps)
    return np.where(enough, 1.0 - np.clip(factors, 0.0, None).prod(-1), np.nan)


def mean_interval(
    values: ArrayLike, *, seed: int, level: float = 0.95, num_resamples: int = 10_000
) -> Interval:
    """Mean over problems (and seeds) with its bootstrap interval.

    Args:
        values: [P] or [S, P].
        seed: of the resampling.
        level: nominal coverage.
        num_resamples: bootstrap draws.
    """
    values_SP = np.atleast_2d(np.asarray(values, np.float64))
    if values_SP.ndim != 2 or values_SP.size == 0:
        raise ValueError(f"values must be [P] or [S, P] and not empty, not {values_SP.shape}")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, not {level}")
    means = _bootstrap_means(values_SP, np.random.default_rng(seed), num_resamples)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean=float(values_SP.mean()), low=float(low), high=float(high))


def paired_difference(
    before: ArrayLike,
    after: ArrayLike,
    *,
    seed: int,
    level: float = 0.95,
    num_resamples: int = 10_000,
) -> Interval:
    """Mean of after minus before on the same problems (and seeds), with its interval.

    Args:
        before: [P] or [S, P], problem by problem.
        after: the same problems in the same order.
        seed: of the resampling.
        level: nominal coverage.
        num_resamples: bootstrap draws.

    Raises:
        ValueError: shapes differ, so nothing is paired.
    """
    first, second = np.asarray(before, np.float64), np.asarray(after, np.float64)
    if first.shape != second.shape:
        raise ValueError(f"before {first.shape} and after {second.shape} are not paired")
    return mean_interval(second - first, seed=seed, level=level, num_resamples=num_resamples)


def _bootstrap_means(
    values_SP: NDArray[np.float64], rng: np.random.Generator, num_resamples: int
) -> NDArray[np.float64]:
    """Means of resamples; a resample has the number of draws of each seed and problem."""
    num_seeds, num_problems = values_SP.shape
    problems_RP = _counts(rng, num_resamples, num_problems)
    if num_seeds == 1:
        return problems_RP @ values_SP[0] / num_problems
    seeds_RS = _counts(rng, num_resamples, num_seeds)
    return ((seeds_RS @ values_SP) * problems_RP).sum(1) / (num_seeds * num_problems)


def _counts(rng: np.random.Generator, num_resamples: int, size: int) -> NDArray[np.float64]:
    return rng.multinomial(size, np.full(size, 1 / size), size=num_resamples).astype(np.float64)
