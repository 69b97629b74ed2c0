"""The experiment's report: `discovery.json`, `discovery.md` and `discovery.png`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from preceptor_clients.kit.files import write_whole
from preceptor_trainer.experiments.compare.tables import Table, level, to_markdown
from preceptor_trainer.experiments.solve.base_rates import BaseRates
from preceptor_trainer.experiments.solve.discovery import discovery
from preceptor_trainer.experiments.solve.experiment import Experiment
from preceptor_trainer.experiments.solve.trajectory import Trajectory
from preceptor_trainer.report.drawing import COLOURS, GRID, hide_sides, new_figure, save
from preceptor_trainer.report.wording import duration, points
from preceptor_trainer.run.journal import versions


def analyse(
    experiment: Experiment, rates: BaseRates, trajectories: Mapping[str, Sequence[Trajectory]]
) -> dict[str, Any]:
    """Curves, differences, costs, and every trajectory that they come from."""
    ks = attempt_grid(experiment.max_attempts)
    curves, differences = discovery(trajectories, ks)
    return {
        "max_attempts": experiment.max_attempts,
        "seeds": list(experiment.seeds),
        "questions": [problem.id for problem in experiment.problems],
        "chosen_from": {
            "split": rates.split,
            "num_problems": len(rates.problem_ids),
            "num_samples": rates.num_samples,
            "ungraded": sum(rates.missing_P),
        },
        "ungraded": sum(t.missing for rows in trajectories.values() for t in rows),
        "made_with": experiment.made_with(),
        "versions": versions(),
        "discovery": {name: asdict(curve) for name, curve in curves.items()},
        "differences": {pair: [asdict(e) for e in values] for pair, values in differences.items()},
        "cost": {
            name: {
                "tokens": float(np.mean([t.tokens for t in rows])),
                "seconds": float(np.mean([t.seconds for t in rows])),
            }
            for name, rows in trajectories.items()
        },
        "trajectories": [asdict(t) for rows in trajectories.values() for t in rows],
    }


def attempt_grid(last: int) -> list[int]:
    """Powers of two up to the last attempt, and the last."""
    grid = [2**i for i in range(last.bit_length()) if 2**i <= last]
    return grid if grid[-1] == last else [*grid, last]


def write_discovery(analysis: Mapping[str, Any], folder: Path) -> Path:
    """Writes the report in all its forms; returns the Markdown's path."""
    text = json.dumps(analysis, allow_nan=False) + "\n"
    write_whole(folder / "discovery.json", text)
    write_whole(folder / "discovery.md", markdown(analysis))
    _draw(analysis, folder / "discovery.png")
    return folder / "discovery.md"


def markdown(analysis: Mapping[str, Any]) -> str:
    """How the questions were chosen, then the tables."""
    chosen = analysis["chosen_from"]
    intro = (
        f"{len(analysis['questions'])} questions of the hard tail: those of "
        f"{chosen['num_problems']} {chosen['split']} problems whose pass@64 was estimated below "
        f"one half from {chosen['num_samples']} samples each. All attempts here are fresh. "
        f"Censored at {analysis['max_attempts']} attempts; {len(analysis['seeds'])} seeds."
        + _ungraded(analysis)
    )
    return "\n\n".join([intro, *(to_markdown(table) for table in tables(analysis))])


def _ungraded(analysis: Mapping[str, Any]) -> str:
    missing, before = analysis["ungraded"], analysis["chosen_from"]["ungraded"]
    if not missing and not before:
        return ""
    return (
        f" {missing} attempts here and {before} of the choice were not graded and count neither "
        "way; a question is left out of the mean at a k to which it has too few grades."
    )


def tables(analysis: Mapping[str, Any]) -> list[Table]:
    """discovery@k, then the paired differences."""
    methods = analysis["discovery"]
    ks = next(iter(methods.values()))["ks"]
    shown = [i for i, k in enumerate(ks) if k in (1, 8, 64) or i == len(ks) - 1]
    level_rows = tuple(
        (
            name,
            *(level(curve["levels"][i]) for i in shown),
            f"{curve['mean_attempts']:.0f}",
            f"{curve['solved_questions']} of {len(analysis['questions'])}",
            duration(analysis["cost"][name]["seconds"]),
        )
        for name, curve in methods.items()
    )
    difference_rows = tuple(
        (pair, *(_difference(values[i]) for i in shown))
        for pair, values in analysis["differences"].items()
    )
    names = tuple(f"discovery@{ks[i]}" for i in shown)
    return [
        Table(
            title="discovery@k",
            note="Chance that one of the first k attempts succeeds, with 95 % intervals over "
            "questions with their seeds. Attempts: mean until the first success or the end. "
            "Time is of a question and a seed.",
            columns=("method", *names, "attempts", "questions solved by a seed", "time"),
            rows=level_rows,
        ),
        Table(
            title="Paired differences",
            note="In points, on the same questions; * where the 95 % interval excludes 0. Not "
            "corrected for the number of k and pairs.",
            columns=("", *names),
            rows=difference_rows,
        ),
    ]


def _bounds(share: Mapping[str, Any]) -> tuple[float, float]:
    """An interval of a share says no more beyond 0 and 1."""
    return max(share["low"], 0.0), min(share["high"], 1.0)


def _difference(found: Mapping[str, Any]) -> str:
    low, high = found["low"], found["high"]
    star = " *" if low > 0 or high < 0 else ""
    return f"{points(found['mean'])} ({points(low)} to {points(high)}){star}"


def _draw(analysis: Mapping[str, Any], path: Path) -> None:
    figure = new_figure(7.5, 4.4)
    axes: Any = figure.subplots()
    for colour, (name, curve) in zip(COLOURS, analysis["discovery"].items(), strict=False):
        levels = curve["levels"]
        axes.plot(curve["ks"], [100 * v["mean"] for v in levels], color=colour, label=name)
        lows, highs = zip(*(_bounds(one) for one in levels), strict=True)
        bounds = [[100 * v for v in side] for side in (lows, highs)]
        axes.fill_between(curve["ks"], *bounds, color=colour, alpha=0.12, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("attempts k")
    axes.set_ylabel("discovery@k, %")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.legend(frameon=False, loc="upper left")
    hide_sides(axes)
    figure.tight_layout()
    save(figure, path)
