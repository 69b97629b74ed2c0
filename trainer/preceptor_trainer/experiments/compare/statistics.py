"""Differences between methods over paired seeds and problems: bootstrap, intervals, Holm.

    estimate(after_b_SP - after_a_SP, seed=0)       # Estimate(mean, low, high, p, ...)
    holm({"a-b": 0.01, "a-c": 0.04})                # adjusted p-values

Dimensions: S seeds (training runs), P problems, R resamples. Values are paired before they come
here: entry (s, p) is one method minus another on the same problem after training with the same
seed, or one method alone.

The bootstrap is hierarchical: seeds are drawn, then problems. All seeds meet the same problems, so
one draw of the problems serves all seeds of a resample; drawing them anew for each seed would
treat S times P problems as independent and give intervals that are too narrow.

With a handful of seeds the percentile interval of that bootstrap is far too narrow (at five seeds
and no problem noise it covers in about 83 % of cases instead of 95 %) and cannot reach the levels
that a correction for many comparisons asks for. So the bootstrap gives the standard error; it is
widened by sqrt(S/(S-1)) for its part that comes from seeds (as by sqrt(P/(P-1)) for problems), and
the limits are those of Student's t with Satterthwaite's degrees of freedom of the two parts: S-1
where seeds decide, many where problems do. Source: T. Hesterberg, The American Statistician 69(4),
2015, section 4; F. Satterthwaite, Biometrics Bulletin 2(6), 1946; S. Holm, Scandinavian Journal of
Statistics 6(2), 1979.

Left out: skewness. Means over tens of problems have little; shares near 0 or 1 have some.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from preceptor_trainer.evaluation.pass_at_k import pass_at_k

_CHUNK = 2_000  # resamples held at a time


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over seeds and problems, how sure it is, and against 0."""

    mean: float
    standard_error: float
    dof: float
    low: float
    high: float
    level: float
    p: float
    """Two-sided, for a true mean of 0, uncorrected."""
    num_seeds: int
    num_problems: int

    def at_level(self, level: float) -> tuple[float, float]:
        """The interval at another level."""
        reach = _reach(level, self.dof, self.standard_error)
        return self.mean - reach, self.mean + reach


def estimate(
    values: ArrayLike, *, seed: int, level: float = 0.95, num_resamples: int = 10_000
) -> Estimate:
    """Mean of paired values with its interval.

    Args:
        values: [S, P], at least two seeds or two problems.
        seed: of the resampling.
        level: coverage aimed at.
        num_resamples: bootstrap draws.

    Raises:
        ValueError: values are not a table, not finite, or a single number.
    """
    values_SP = np.asarray(values, np.float64)
    if values_SP.ndim != 2 or values_SP.size < 2:
        raise ValueError(f"values must be [S, P] with at least two entries, not {values_SP.shape}")
    if not np.isfinite(values_SP).all():
        raise ValueError("values must be finite; leave out missing outcomes")
    mean = float(values_SP.mean())
    means_R = bootstrap_means(values_SP, seed=seed, num_resamples=num_resamples)
    widening, dof = _small_sample(values_SP)
    error = float(means_R.std()) * widening
    reach = _reach(level, dof, error)
    return Estimate(
        mean=mean,
        standard_error=error,
        dof=dof,
        low=mean - reach,
        high=mean + reach,
        level=level,
        p=_p_value(mean, error, dof),
        num_seeds=values_SP.shape[0],
        num_problems=values_SP.shape[1],
    )


def bootstrap_means(
    values_SP: NDArray[np.float64], *, seed: int, num_resamples: int
) -> NDArray[np.float64]:
    """[R] means of resamples; a resample is how often each seed and each problem was drawn."""
    rng = np.random.default_rng(seed)
    num_seeds, num_problems = values_SP.shape
    means: list[NDArray[np.float64]] = []
    for start in range(0, num_resamples, _CHUNK):
        size = min(_CHUNK, num_resamples - start)
        seeds_RS = _counts(rng, size, num_seeds)
        problems_RP = _counts(rng, size, num_problems)
        means.append(((seeds_RS @ values_SP) * problems_RP).sum(1))
    return np.concatenate(means) / (num_seeds * num_problems)


def _counts(rng: np.random.Generator, num_resamples: int, size: int) -> NDArray[np.float64]:
    return rng.multinomial(size, np.full(size, 1 / size), size=num_resamples).astype(np.float64)


def _small_sample(values_SP: NDArray[np.float64]) -> tuple[float, float]:
    """Factor on the bootstrap's standard error, and degrees of freedom.

    The variance of the mean is taken as a part of seeds and a part of problems, each estimated from
    its own marginal means.
    """
    parts: list[tuple[float, int]] = []
    for means in (values_SP.mean(1), values_SP.mean(0)):
        size = len(means)
        if size > 1:
            parts.append((float(means.var(ddof=1)) / size, size))
    total = sum(variance for variance, _ in parts)
    if total == 0:
        return 1.0, float(max(size for _, size in parts) - 1)
    shrunk = sum(variance * (size - 1) / size for variance, size in parts)
    dof = total**2 / sum(variance**2 / (size - 1) for variance, size in parts)
    return math.sqrt(total / shrunk), dof


def _reach(level: float, dof: float, error: float) -> float:
    return float(stats.t.isf((1 - level) / 2, dof)) * error if error else 0.0


def _p_value(mean: float, error: float, dof: float) -> float:
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return 2 * float(stats.t.sf(abs(mean) / error, dof))


@dataclass(frozen=True, kw_only=True)
class Corrected:
    """One comparison among several, after Holm's correction."""

    estimate: Estimate
    p_holm: float
    """Adjusted p-value: below alpha where Holm's procedure rejects."""
    low: float
    """Limits at the level at which Holm's procedure looked at this comparison."""
    high: float
    claimed: bool
    """True where the procedure rejects and that interval excludes 0; otherwise no order."""


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjusted p-values: the i-th smallest of m, times m - i + 1, never falling.

    Implemented here, because scipy only corrects for the false discovery rate.
    """
    ordered = sorted(p_values, key=lambda name: p_values[name])
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(ordered):
        largest = max(largest, min(1.0, p_values[name] * (len(ordered) - rank)))
        adjusted[name] = largest
    return adjusted


def correct(estimates: Mapping[str, Estimate], *, alpha: float = 0.05) -> dict[str, Corrected]:
    """Holm's procedure over a family of comparisons, with the corresponding intervals.

    The i-th smallest p-value of m is tested with level 1 - alpha / (m - i + 1).
    """
    adjusted = holm({name: e.p for name, e in estimates.items()})
    ordered = sorted(estimates, key=lambda name: estimates[name].p)
    found: dict[str, Corrected] = {}
    for rank, name in enumerate(ordered):
        low, high = estimates[name].at_level(1 - alpha / (len(ordered) - rank))
        found[name] = Corrected(
            estimate=estimates[name],
            p_holm=adjusted[name],
            low=low,
            high=high,
            claimed=adjusted[name] < alpha and (low > 0 or high < 0),
        )
    return {name: found[name] for name in estimates}


def from_counts(successes_P: ArrayLike, num_samples: int) -> NDArray[np.bool_]:
    """[P, N] outcomes with `successes_P` of N right: all that pass@k looks at."""
    successes: Any = np.asarray(successes_P)
    if successes.ndim != 1 or (successes < 0).any() or (successes > num_samples).any():
        raise ValueError(f"successes_P must be counts of 0 to {num_samples}, not {successes_P}")
    return np.arange(num_samples) < successes[:, None]


def pass_at_k_of_counts(
    successes_P: ArrayLike, num_samples: int, k: int, *, missing_P: ArrayLike = ()
) -> NDArray[np.float64]:
    """[P] pass@k from counts.

    Args:
        successes_P: successes of each problem.
        num_samples: samples of each problem.
        k: samples that a user would draw.
        missing_P: samples without a grade, which count neither way; none by default.

    Returns:
        NaN where fewer than k samples have a grade.
    """
    outcomes_PN, missing = from_counts(successes_P, num_samples), np.asarray(missing_P, np.int64)
    if not missing.any():
        return pass_at_k(outcomes_PN, k)
    graded_PN = np.arange(num_samples) < (num_samples - missing)[:, None]
    return pass_at_k(outcomes_PN, k, graded_PN=graded_PN)


def known_problems(values_SP: NDArray[np.float64]) -> NDArray[np.float64]:
    """The columns without a missing value: a problem counts with all its seeds or not at all."""
    return values_SP[:, ~np.isnan(values_SP).any(0)]
