"""A trainer that is killed in any phase goes on to the numbers of a run that nobody killed."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from preceptor_clients.http.gateway import GatewayClient
from preceptor_trainer.run.watching.metrics_log import read_metrics

from .conftest import Running
from .forked import Point

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

OPTIONS = {
    "steps": 3,
    "problems_per_step": 2,
    "rollouts_per_problem": 3,
    "held_out": 2,
    "num_samples": 2,
    "checkpoint_every": 2,
}
Points = list[Point]
MOST_PHASES: Points = [
    *(("experts", 1), ("update", 1), ("publish", 2), ("record", 1), ("checkpoint", 1)),
    *(("evaluation", 1), ("report", 1)),
]
"""Always run: each phase with something to lose. The others are at leisure."""
FIRST_STEPS: Points = [
    ("evaluation", 1),
    ("publish", 1),
    *(("collect", 1), ("feedback", 1), ("experts", 1), ("targets", 2)),
    *(("update", 2), ("publish", 3), ("record", 2), ("metrics", 1), ("checkpoint", 1)),
]
LAST_STEPS: Points = [
    *(("checkpoint", 2), ("update", 1), ("publish", 1), ("record", 1), ("metrics", 1)),
    *(("evaluation", 1), ("summary", 1), ("report", 1)),
]


def run_lives(run: Running, points: Points) -> None:
    """One process after another, each killed at its point, and a last one that is not killed."""
    for point, number in points:
        code = run.start_trainer(kill_at=(point, number), **OPTIONS).wait(timeout=300)
        assert code == -signal.SIGKILL, f"not killed at {point}: {run.trainer_log()}"
    assert run.start_trainer(**OPTIONS).wait(timeout=300) == 0, run.trainer_log()


@pytest.fixture(scope="module")
def undisturbed(running: Running) -> Path:
    run = running.run("undisturbed")
    run_lives(run, [])
    return run.run_dir


def numbers(run_dir: Path) -> list[dict[str, Any]]:
    """All metrics but the times, and the lineage that took the step."""
    return [
        {k: v for k, v in line.items() if k != "lineage" and not k.startswith("seconds/")}
        for line in read_metrics(run_dir)
    ]


def results(run_dir: Path) -> dict[str, Any]:
    summary = json.loads((run_dir / "summary.json").read_text())
    return {name: summary[name] for name in ("before", "after", "gain", "rollouts", "targets")}


@pytest.mark.parametrize(
    ("name", "points"),
    [
        ("most", MOST_PHASES),
        pytest.param("early", FIRST_STEPS, marks=pytest.mark.gauntlet),
        pytest.param("late", LAST_STEPS, marks=pytest.mark.gauntlet),
    ],
    ids=["most phases", "early", "late"],
)
async def test_a_run_killed_in_every_phase_ends_with_the_numbers_of_an_undisturbed_one(
    running: Running, undisturbed: Path, name: str, points: Points
) -> None:
    killed = running.run(name)

    run_lives(killed, points)

    assert numbers(killed.run_dir) == numbers(undisturbed)
    assert results(killed.run_dir) == results(undisturbed)
    assert (killed.run_dir / "report.html").exists()
    gateway = running.deployment
    async with GatewayClient(gateway.gateway_url, gateway.key) as client:
        accounting = await client.accounting(name)
    assert (accounting.steps, accounting.consumed) == (3, 3 * 2 * 3)
    assert accounting.consumed_twice == 0
