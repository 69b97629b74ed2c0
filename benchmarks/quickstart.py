"""The quickstart over five seeds, against the same run with the feedback withheld from the teacher.

    python benchmarks/quickstart.py [--runs runs/benchmark] [--seeds 5]

Each run is `preceptor quickstart` as a user starts it, through real services. Finished runs are
kept and not repeated. Writes `benchmarks/results/quickstart.json` with the raw per-problem success
counts, so that every interval can be computed again, and draws `docs/figures/quickstart.png`.

Intervals: 95 % percentile bootstrap over seeds and problems together (paired: the same problems,
the same seeds). With five seeds such an interval is still somewhat too narrow.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from preceptor_trainer.evaluation.held_out import Evaluation
from preceptor_trainer.evaluation.pass_at_k import (
    Interval,
    mean_interval,
    paired_difference,
    pass_at_k,
)
from preceptor_trainer.run.watching.metrics_log import read_metrics

RESULT = Path(__file__).parent / "results" / "quickstart.json"
FIGURE = Path(__file__).parent.parent / "docs" / "figures" / "quickstart.png"
ARMS = {"feedback": [], "withheld": ["--withhold-feedback"]}
KS = (1, 8)
COLORS = {"feedback": "#1f6f8b", "withheld": "#b5762f"}
LABELS = {"feedback": "with feedback", "withheld": "feedback withheld from the expert"}
BARS = (
    ("before", "before", "#888888"),
    ("after", "after", COLORS["feedback"]),
    ("after,\nwithheld", "after, feedback withheld", COLORS["withheld"]),
)


def main(
    runs: Annotated[Path, typer.Option(help="Where runs are kept.")] = Path("runs/benchmark"),
    seeds: Annotated[int, typer.Option(help="Seeds 0 to N-1.")] = 5,
    steps: Annotated[int, typer.Option(help="Optimiser steps of each run.")] = 40,
) -> None:
    """Runs what is missing, then writes and prints the result."""
    for seed in range(seeds):
        for arm, options in ARMS.items():
            if arm == "withheld" and seed > 0:
                share_evaluation_before(runs, seed)
            run_once(runs, f"{arm}-{seed}", ["--seed", str(seed), "--steps", str(steps), *options])
    result = summarise(runs, seeds)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    draw(result, FIGURE)
    for name, interval in result["intervals"].items():
        print(
            f"{name:34} {interval['mean']:+.3f}  [{interval['low']:+.3f}, {interval['high']:+.3f}]"
        )
    print(f"seconds per run (median): {result['seconds_per_run_median']:.0f}")


def run_once(runs: Path, name: str, options: list[str]) -> None:
    """One quickstart, unless it is there."""
    if (runs / name / "summary.json").exists():
        return
    print(f"running {name}", flush=True)
    command = [sys.executable, "-m", "preceptor_clients.cli", "quickstart", "--name", name]
    runs.mkdir(parents=True, exist_ok=True)
    with (runs / f"{name}.log").open("w") as log:
        subprocess.run([*command, "--runs", str(runs), *options], check=True, stdout=log)


def share_evaluation_before(runs: Path, seed: int) -> None:
    """Both arms of a seed begin with the same student and the same draws: it is sampled once.

    Seed 0 samples it in both arms, and `summarise` checks that the outcomes are equal.
    """
    target = runs / f"withheld-{seed}" / "evaluations" / "before.json"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(runs / f"feedback-{seed}" / "evaluations" / "before.json", target)


def summarise(runs: Path, seeds: int) -> dict[str, Any]:
    """Everything from the runs' raw evaluations."""
    outcomes = {
        arm: {moment: load(runs, arm, moment, seeds) for moment in ("before", "after")}
        for arm in ARMS
    }
    first = [outcomes[arm]["before"][0].successes_PN for arm in ARMS]
    assert np.array_equal(first[0], first[1]), "the arms of seed 0 did not begin alike"
    summaries = {
        arm: [read(runs / f"{arm}-{s}" / "summary.json") for s in range(seeds)] for arm in ARMS
    }
    seconds = [s["seconds"] for arm in ARMS for s in summaries[arm]]
    return {
        "command": "python benchmarks/quickstart.py",
        "machine": machine(),
        "versions": summaries["feedback"][0]["versions"],
        # a folder of this machine says nothing; the recipe takes the shipped student
        "config": summaries["feedback"][0]["config"] | {"model": "preceptor_trainer/student/model"},
        "seeds": seeds,
        "intervals": {name: asdict(i) for name, i in intervals(outcomes).items()},
        "per_seed": {
            arm: [
                {"before": s["before"], "after": s["after"], "seconds": s["seconds"]} for s in rows
            ]
            for arm, rows in summaries.items()
        },
        "reward_per_step": {
            arm: [rewards(runs / f"{arm}-{seed}") for seed in range(seeds)] for arm in ARMS
        },
        "seconds_per_run_median": float(np.median(seconds)),
        "successes_of_16": {
            arm: {m: [e.successes_PN.sum(1).tolist() for e in rows] for m, rows in moments.items()}
            for arm, moments in outcomes.items()
        },
    }


def intervals(outcomes: dict[str, dict[str, list[Evaluation]]]) -> dict[str, Interval]:
    """Levels, gains, and the gain over the control arm."""
    found: dict[str, Interval] = {}
    for k in KS:
        values = {
            arm: {
                m: np.stack([pass_at_k(e.successes_PN, k) for e in rows]) for m, rows in ms.items()
            }
            for arm, ms in outcomes.items()
        }
        shown = values["feedback"]
        found[f"pass@{k} before"] = mean_interval(shown["before"], seed=0)
        found[f"pass@{k} after"] = mean_interval(shown["after"], seed=0)
        found[f"pass@{k} gain"] = paired_difference(shown["before"], shown["after"], seed=0)
        control = values["withheld"]
        found[f"pass@{k} after, feedback withheld"] = mean_interval(control["after"], seed=0)
        found[f"pass@{k} gain, feedback withheld"] = paired_difference(
            control["before"], control["after"], seed=0
        )
        found[f"pass@{k} after, over withheld"] = paired_difference(
            control["after"], shown["after"], seed=0
        )
    return found


def rewards(run: Path) -> list[float]:
    """Share of the rollouts that were solved, step by step."""
    return [line["reward"] for line in read_metrics(run)]


def draw(result: dict[str, Any], path: Path) -> None:
    """Training curves of both arms, seed by seed, beside the held-out results."""
    figure = Figure(figsize=(9.0, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    curves, bars = figure.subplots(1, 2, width_ratios=(3, 2))
    for arm, color in COLORS.items():
        runs = np.array(result["reward_per_step"][arm]) * 100
        smooth = np.array([np.convolve(run, np.ones(5) / 5, mode="valid") for run in runs])
        steps = np.arange(smooth.shape[1]) + 5
        curves.plot(steps, smooth.T, color=color, alpha=0.25, linewidth=1)
        curves.plot(steps, smooth.mean(0), color=color, linewidth=2, label=LABELS[arm])
    curves.set(xlabel="step", ylabel="rollouts solved, % (5 steps)")
    curves.set_ylim(0, 1.3 * curves.get_ylim()[1])  # room for the legend
    curves.legend(frameon=False, loc="upper left")
    for place, (_, key, color) in enumerate(BARS):
        for k, shift in zip(KS, (-0.2, 0.2), strict=True):
            found = result["intervals"][f"pass@{k} {key}"]
            mean, low, high = (100 * found[field] for field in ("mean", "low", "high"))
            shade = {"color": color, "alpha": 1.0 if k == 1 else 0.45}
            bars.bar(place + shift, mean, 0.38, **shade)
            bars.errorbar(place + shift, mean, [[mean - low], [high - mean]], color="black")
            bars.text(place + shift, 100 * found["high"] + 1.5, f"@{k}", ha="center", fontsize=8)
    bars.set_xticks(range(len(BARS)), [name for name, _, _ in BARS])
    bars.set_ylabel("held-out pass@1 and pass@8, %")
    for axes in (curves, bars):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def load(runs: Path, arm: str, moment: str, seeds: int) -> list[Evaluation]:
    return [
        Evaluation.load(runs / f"{arm}-{seed}" / "evaluations" / f"{moment}.json")
        for seed in range(seeds)
    ]


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def machine() -> dict[str, Any]:
    """What the times depend on."""
    cpuinfo = Path("/proc/cpuinfo")
    models = [
        line.partition(":")[2].strip()
        for line in (cpuinfo.read_text().splitlines() if cpuinfo.exists() else [])
        if line.startswith("model name")
    ]
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    typer.run(main)
