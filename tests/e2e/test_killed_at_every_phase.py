"""A trainer that is killed in any phase goes on to the numbers of a run that nobody killed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from preceptor_clients.http.gateway import GatewayClient
from preceptor_trainer.run.metrics_log import read_metrics

from .conftest import Running, start_deployment

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

OPTIONS = {
    "steps": 3,
    "problems_per_step": 2,
    "rollouts_per_problem": 3,
    "held_out": 2,
    "num_samples": 2,
    "checkpoint_every": 2,
}
Points = list[tuple[str, int]]
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


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One deployment for all runs of this file; each has a folder under its `weights`."""
    yield from start_deployment(tmp_path_factory.mktemp("runs") / "phases")


def run_of(deployment: Running, name: str) -> Path:
    return deployment.run_dir / "weights" / name


def run_lives(deployment: Running, name: str, points: Points) -> None:
    words = ["train", "preceptor_trainer.recipes.quickstart:quickstart"]
    words += ["--run-dir", str(run_of(deployment, name))]
    words += ["--gateway", deployment.deployment.gateway_url]
    words += ["--key-file", str(deployment.run_dir / "keys" / "trainer.key")]
    for pair in (OPTIONS | {"name": name}).items():
        words += ["--option", "{}={}".format(*pair)]
    script = Path(__file__).with_name("lives.py")
    done = subprocess.run(
        [sys.executable, str(script), json.dumps(points), *words],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def undisturbed(deployment: Running) -> Path:
    run_lives(deployment, "undisturbed", [])
    return run_of(deployment, "undisturbed")


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
    deployment: Running, undisturbed: Path, name: str, points: Points
) -> None:
    run_lives(deployment, name, points)

    assert numbers(run_of(deployment, name)) == numbers(undisturbed)
    assert results(run_of(deployment, name)) == results(undisturbed)
    assert (run_of(deployment, name) / "report.html").exists()
    gateway = deployment.deployment
    async with GatewayClient(gateway.gateway_url, gateway.key) as client:
        accounting = await client.accounting(name)
    assert (accounting.steps, accounting.consumed) == (3, 3 * 2 * 3)
    assert accounting.consumed_twice == 0
