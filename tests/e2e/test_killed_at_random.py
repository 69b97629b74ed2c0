"""Trainers killed at random moments, on one rank and on two, lose no step and take none twice."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors import safe_open

from preceptor_clients.http.gateway import GatewayClient
from preceptor_trainer.run.checkpoint import checkpoints, load_checkpoint
from preceptor_trainer.run.watching.metrics_log import read_metrics

from .conftest import Running
from .forked import Command

pytestmark = [pytest.mark.e2e, pytest.mark.gauntlet]

OPTIONS: dict[str, Any] = {
    "recipe": "ranked:recipe",
    "cwd": Path(__file__).parent,
    "steps": 10,
    "problems_per_step": 2,
    "rollouts_per_problem": 3,
    "held_out": 2,
    "num_samples": 2,
    "checkpoint_every": 2,
}
POINTS = 20


def numbers(run_dir: Path) -> list[dict[str, Any]]:
    """All metrics but the times, and the lineage that took the step."""
    return [
        {k: v for k, v in line.items() if k != "lineage" and not k.startswith("seconds/")}
        for line in read_metrics(run_dir)
    ]


def followers_of(trainer: Command) -> list[psutil.Process]:
    children = psutil.Process(trainer.pid).children()
    return [one for one in children if "preceptor_trainer.learner.follower" in one.cmdline()]


def kill_after(trainer: Command, seconds: float, *, follower: bool) -> bool:
    """Kills the trainer, or a rank of it, unless it has ended before."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and trainer.poll() is None:
        time.sleep(0.01)
    if trainer.poll() is not None:
        return False
    others = followers_of(trainer) if follower else []
    if others:
        others[0].send_signal(signal.SIGKILL)
        # After the last step nobody misses it.
        return trainer.wait(timeout=120) != 0
    trainer.send_signal(signal.SIGKILL)
    trainer.wait(timeout=60)
    return True


def check_files(run_dir: Path) -> None:
    """Every checkpoint can be read, and so can the weights that it names."""
    for path in checkpoints(run_dir / "checkpoints"):
        position, state = load_checkpoint(path)
        assert state["num_steps"] == position.step
        with safe_open(run_dir / "weights" / position.weights / "model.safetensors", "pt") as file:
            assert file.keys()


@pytest.mark.parametrize("ranks", [1, 2])
async def test_runs_killed_at_random_end_with_the_numbers_of_an_undisturbed_one(
    running: Running, ranks: int
) -> None:
    undisturbed = running.run(f"undisturbed-{ranks}")
    began = time.monotonic()
    trainer = undisturbed.start_trainer(ranks=ranks, **OPTIONS)
    assert trainer.wait(timeout=600) == 0, undisturbed.trainer_log()
    duration, draw = time.monotonic() - began, random.Random(ranks)
    kills, runs = 0, list[Running]()

    while kills < POINTS:
        runs.append(running.run(f"random-{ranks}-{len(runs)}"))
        killed = runs[-1]
        while True:
            trainer = killed.start_trainer(ranks=ranks, **OPTIONS)
            moment = draw.uniform(0, duration)
            if kills < POINTS and kill_after(trainer, moment, follower=draw.random() < 0.3):
                kills += 1
                check_files(killed.run_dir)
                continue
            assert trainer.wait(timeout=600) == 0, killed.trainer_log()
            break

    for run in runs:
        assert numbers(run.run_dir) == numbers(undisturbed.run_dir)
        check_files(run.run_dir)
        gateway = running.deployment
        async with GatewayClient(gateway.gateway_url, gateway.key) as client:
            accounting = await client.accounting(run.run_dir.name)
        assert (accounting.steps, accounting.consumed) == (10, 10 * 2 * 3)
        assert accounting.consumed_twice == 0
