"""How long does a step take when its stages overlap, and what is the gradient of stale rollouts?

    python benchmarks/overlap.py      # five minutes, of sleep; writes results/overlap.json

Collecting, labelling, schedules, late answers and objective are the trainer's own; sampling, the
source, the experts and the optimiser's step are simulated delays (`overlap_world.py`). A step of
the plain loop takes the sum of its stages. The overlapped one is compared with its slowest stage,
among experts that a step waits for: alone, beside an expert that takes ten times as long, and
beside one more that cannot be reached for a while.

Then the gradient of DistIL for rollouts that are so many versions behind, on the policies that the
last run had: enumerated, against the exact gradient (`exact_gradient.py`).
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from answer_path import machine
from exact_gradient import of_an_older_policy
from overlap_world import WORLD, Delays, Expert, Result, simulate, teacher
from rich.console import Console
from rich.table import Table

from preceptor_trainer.run.schedules import Deterministic, Overlapped, Schedule

RESULT = Path(__file__).parent / "results" / "overlap.json"
BEHIND = (1, 2, 4, 8, 12)
PLAIN = Delays(
    sampling_s=1.2,
    rollout_judged_s=0.08,
    training_s=1.0,
    experts={"first": Expert(group_s=0.5), "second": Expert(group_s=0.3)},
)
SLOW = Expert(group_s=20.0, at_a_time=64, deadline_s=0.0)
AWAY = Expert(group_s=0.4, down_until_s=20.0)
OVERLAPPED = Overlapped(staleness=2, deadline_s=8.0, join_within=14)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run."""

    schedule: Schedule
    delays: Delays
    steps: int


CASES = {
    "one after the other": Case(schedule=Deterministic(), delays=PLAIN, steps=4),
    "overlapped": Case(schedule=OVERLAPPED, delays=PLAIN, steps=32),
    "and one expert ten times slower": Case(
        schedule=OVERLAPPED,
        delays=replace(PLAIN, experts={**PLAIN.experts, "slow": SLOW}),
        steps=32,
    ),
    "and one down for 20 s": Case(
        schedule=OVERLAPPED,
        delays=replace(PLAIN, experts={**PLAIN.experts, "slow": SLOW, "away": AWAY}),
        steps=32,
    ),
}


def figures(case: Case, result: Result) -> dict[str, Any]:
    """What is told of a run."""
    stages = case.delays.stages
    step_s = result.seconds / case.steps
    behind = Counter(one for step in result.behind for one in step)
    future = [size for size in result.future if not np.isnan(size)]
    return {
        "steps": case.steps,
        "stages, seconds a step": stages,
        "sum of stages": round(sum(stages.values()), 2),
        "slowest stage": max(stages.values()),
        "seconds a step": round(step_s, 3),
        "times the slowest stage": round(step_s / max(stages.values()), 3),
        "rollouts by versions behind": dict(sorted(behind.items())),
        "weight of the future term of stale rollouts, nats": {
            "mean": round(float(np.mean(future)), 3) if future else None,
            "least of a step": round(min(future), 3) if future else None,
        },
        "late answers": dict(result.late),
        "answers used, by expert": dict(Counter(name for name, _ in result.answers)),
        "rollouts or answers used twice": sum(
            count > 1 for count in (*result.used.values(), *result.answers.values())
        ),
    }


def gradients(result: Result) -> dict[str, dict[str, tuple[float, float]]]:
    """Relative error and variance by versions behind, for the last policy of a run."""
    logits = result.logits
    return {
        str(behind): of_an_older_policy(WORLD, logits[-1], logits[-1 - behind], teacher("first"))
        for behind in BEHIND
    }


def drift(result: Result, behind: int) -> float:
    """Root mean square distance of the logits of two versions, each state's mean removed."""
    moved_PV = np.asarray(result.logits[-1]) - np.asarray(result.logits[-1 - behind])
    return float((moved_PV - moved_PV.mean(-1, keepdims=True)).std())


def show(report: dict[str, Any], console: Console) -> None:
    """Prints both tables."""
    runs = report["runs"]
    table = Table("", *runs, title="simulated delays", title_justify="left")
    for name in next(iter(runs.values())):
        table.add_row(name, *[str(run[name]) for run in runs.values()])
    console.print(table)
    by_behind = report["gradient: relative error, variance"]
    title = "gradient of DistIL: relative error of its mean, variance of one rollout's"
    table = Table("versions behind", *by_behind, title=title, title_justify="left")
    table.add_row("logits moved", *[str(moved) for moved in report["logits moved"].values()])
    for name in next(iter(by_behind.values())):
        cells = [f"{one[name][0]:.4f}  {one[name][1]:.2f}" for one in by_behind.values()]
        table.add_row(name, *cells)
    console.print(table)


def main() -> None:
    """Measures, prints, writes."""
    torch.set_num_threads(1)  # on tensors this small, threads only wait for each other
    results = {
        name: asyncio.run(simulate(case.schedule, case.delays, case.steps))
        for name, case in CASES.items()
    }
    last = results["and one down for 20 s"]
    report = {
        "machine": machine(),
        "runs": {name: figures(case, results[name]) for name, case in CASES.items()},
        "logits moved": {str(behind): round(drift(last, behind), 3) for behind in BEHIND},
        "gradient: relative error, variance": gradients(last),
    }
    show(report, Console(width=160))
    RESULT.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
