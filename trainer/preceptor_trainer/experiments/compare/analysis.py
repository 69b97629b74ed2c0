"""From finished cells to the numbers of a report. Pure: cells in, JSON values out.

Two families of tests per k, each corrected by Holm's procedure: what each method gained over the
student it began with, and every method against every other. Values are paired by seed and problem;
an order between two methods is claimed only where the corrected interval of their difference
excludes 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preceptor_trainer.experiments.compare import sees
from preceptor_trainer.experiments.compare.cells import CellResult, Outcomes
from preceptor_trainer.experiments.compare.plan import Comparison
from preceptor_trainer.experiments.compare.runner import choose_rates, search_scores
from preceptor_trainer.experiments.compare.statistics import (
    Estimate,
    correct,
    estimate,
    known_problems,
)
from preceptor_trainer.run.config import describe

BOOTSTRAP_SEED = 0
ByMethod = Mapping[str, Sequence[CellResult]]


def analyse(
    comparison: Comparison, search: Sequence[CellResult], final: Sequence[CellResult]
) -> dict[str, Any]:
    """The numbers of the report, with the raw counts from which they can be computed again.

    Raises:
        ValueError: cells are not paired, or a method used information that it declares not to use.
    """
    by_method = {
        method.name: [result for result in final if result.cell.method == method.name]
        for method in comparison.methods
    }
    _check_pairs(by_method)
    rates = choose_rates(comparison, search)
    return {
        "comparison": comparison.name,
        "question": comparison.question,
        "budget": str(comparison.budget),
        "seeds": list(comparison.seeds),
        "search_seeds": list(comparison.search_seeds),
        "ks": list(comparison.ks),
        "held_out": _size(final[0].after),
        "validation": _size(search[0].after) if search else None,
        "setting": describe(comparison.setting) | {"model": final[0].made_with["config"]["model"]},
        "versions": final[0].versions,
        "wall_clock": _wall_clock([*search, *final]),
        "ungraded": sum(r.before.num_ungraded + r.after.num_ungraded for r in final),
        "methods": {
            method.name: _method(comparison, method.name, by_method[method.name], rates, search)
            for method in comparison.methods
        },
        "differences": {f"pass@{k}": _differences(by_method, k) for k in comparison.ks},
        "gains": {f"pass@{k}": _gains(by_method, k) for k in comparison.ks},
        "cells": [asdict(result) | {"made_with": None} for result in [*search, *final]],
    }


def _check_pairs(by_method: ByMethod) -> None:
    """Checks that every method answered the same problems after training on the same seeds."""
    (name, first), *others = by_method.items()
    for other, results in others:
        for a, b in zip(first, results, strict=True):
            if a.cell.seed != b.cell.seed or a.after.problem_ids != b.after.problem_ids:
                raise ValueError(f"cells: {name} and {other} are not paired at {b.cell.name}")
    for results in by_method.values():
        for result in results:
            if result.before.problem_ids != result.after.problem_ids:
                raise ValueError(f"cells: {result.cell.name} answered other problems in the end")


def _size(outcomes: Outcomes) -> dict[str, int]:
    return {"num_problems": len(outcomes.problem_ids), "num_samples": outcomes.num_samples}


def _wall_clock(results: Sequence[CellResult]) -> dict[str, float]:
    """Wall-clock time of the runs in sum, where it is known."""
    known = [r.wall_seconds for r in results if r.wall_seconds is not None]
    return {"seconds": sum(known), "known": len(known), "runs": len(results)}


def _method(
    comparison: Comparison,
    name: str,
    results: Sequence[CellResult],
    rates: Mapping[str, float],
    search: Sequence[CellResult],
) -> dict[str, Any]:
    method = comparison.method(name)
    counts = _summed(result.observed for result in results)
    wrong = sees.contradictions(method.sees, counts, method.larger_experts)
    if wrong:
        raise ValueError(f"sees: {name} " + "; ".join(wrong))
    scores = search_scores(search).get(name, {})
    return {
        "title": method.title,
        "note": method.note,
        "sees": asdict(method.sees),
        "sees_unused": sees.unused(method.sees, counts, method.larger_experts),
        "observed": counts,
        "lr": rates[name],
        "lr_search": {f"{lr:g}": score for lr, score in scores.items()},
        "lr_from": None if method.rate_from is None else method.rate_from.comparison,
        "lr_at_edge": method.rate_from.at_edge
        if method.rate_from is not None
        else len(method.learning_rates) > 1
        and rates[name] in (method.learning_rates[0], method.learning_rates[-1]),
        "config": results[0].made_with["config"],
        "levels": {
            f"pass@{k}": {
                "before": asdict(_level([r.before for r in results], k)),
                "after": asdict(_level([r.after for r in results], k)),
            }
            for k in comparison.ks
        },
        "pass_at_k": _pass_at_k_curve(results),
        "curve": learning_curve(results),
        "length": {
            "before": float(np.mean([r.before.mean_length for r in results])),
            "after": float(np.mean([r.after.mean_length for r in results])),
        },
        "entropy": _first_and_last(results, "entropy"),
        "with_teacher": _overall(results, "with_teacher"),
        "cost": {
            "steps": float(np.mean([r.steps for r in results])),
            "seconds": float(np.mean([r.seconds for r in results])),
            "wall_seconds": _mean([r.wall_seconds for r in results]),
            "tokens": float(np.mean([r.tokens for r in results])),
            "targets": float(np.mean([_total(r, "targets") for r in results])),
            "dropped_answers": float(np.sum([_total(r, "dropped_answers") for r in results])),
        },
        "training": {
            name: _by_step(results, name) for name in ("response_length", "entropy", "with_teacher")
        },
    }


def _level(outcomes: Sequence[Outcomes], k: int) -> Estimate:
    return _estimate(values_SP(outcomes, k), k)


def values_SP(outcomes: Sequence[Outcomes], k: int) -> NDArray[np.float64]:
    """[S, P] pass@k of every seed and problem; NaN where too few samples have a grade."""
    return np.stack([o.pass_at(k) for o in outcomes])


def _estimate(values: NDArray[np.float64], k: int) -> Estimate:
    """Over the problems whose samples have grades enough; the estimate has their number."""
    known = known_problems(values)
    if known.size < 2:
        raise ValueError(
            f"ks: pass@{k} has no estimate: no problem has {k} graded samples in every run; "
            "choose a smaller k, or repair the feedback source and remove these cells"
        )
    return estimate(known, seed=BOOTSTRAP_SEED)


def _gains(by_method: ByMethod, k: int) -> dict[str, Any]:
    """The gain of each method over its student before training."""
    estimates = {
        name: _estimate(
            values_SP([r.after for r in results], k) - values_SP([r.before for r in results], k), k
        )
        for name, results in by_method.items()
    }
    return {name: asdict(found) for name, found in correct(estimates).items()}


def _differences(by_method: ByMethod, k: int) -> list[dict[str, Any]]:
    """First minus second, for every pair of methods, in the comparison's order."""
    after = {name: values_SP([r.after for r in rs], k) for name, rs in by_method.items()}
    pairs = {f"{a} - {b}": (a, b) for a, b in combinations(after, 2)}
    estimates = {name: _estimate(after[a] - after[b], k) for name, (a, b) in pairs.items()}
    return [
        {"first": pairs[name][0], "second": pairs[name][1], **asdict(found)}
        for name, found in correct(estimates).items()
    ]


def _pass_at_k_curve(results: Sequence[CellResult]) -> dict[str, list[float]]:
    """Means over seeds and problems at powers of two."""
    num_samples = results[0].after.num_samples
    curve: dict[str, list[float]] = {"k": [], "before": [], "after": []}
    for k in (2**i for i in range(num_samples.bit_length()) if 2**i <= num_samples):
        before = known_problems(values_SP([r.before for r in results], k))
        after = known_problems(values_SP([r.after for r in results], k))
        if before.size and after.size:
            curve["k"].append(float(k))
            curve["before"].append(float(before.mean()))
            curve["after"].append(float(after.mean()))
    return curve


def learning_curve(results: Sequence[CellResult]) -> list[dict[str, float]]:
    """Means over seeds of the probes, at the steps that every seed reached."""
    by_step = [{int(point["step"]): point for point in r.probes} for r in results]
    shared = sorted(set[int].intersection(*(set(points) for points in by_step)))
    return [
        {
            name: float(np.mean([points[step][name] for points in by_step]))
            for name in ("step", "seconds", "tokens", "pass@1", "length")
        }
        for step in shared
    ]


def _by_step(results: Sequence[CellResult], name: str) -> list[float | None]:
    """Means over seeds of a metric; None where no seed has it."""
    longest = max(len(r.metrics) for r in results)
    columns = [
        [v for r in results if i < len(r.metrics) and (v := r.metrics[i].get(name)) is not None]
        for i in range(longest)
    ]
    return [float(np.mean(column)) if column else None for column in columns]


def _first_and_last(results: Sequence[CellResult], name: str) -> dict[str, float | None]:
    values = [value for value in _by_step(results, name) if value is not None]
    return {"first": values[0] if values else None, "last": values[-1] if values else None}


def _overall(results: Sequence[CellResult], name: str) -> float | None:
    return _mean(_by_step(results, name))


def _mean(values: Sequence[float | None]) -> float | None:
    """Over those that are known."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _total(result: CellResult, name: str) -> float:
    return float(sum(line.get(name) or 0.0 for line in result.metrics))


def _summed(counts: Any) -> dict[str, int]:
    total: Counter[str] = Counter()
    for part in counts:
        total.update(part)
    return dict(total)
