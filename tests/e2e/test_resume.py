"""Killing the trainer at any step and starting it again continues with identical losses."""

from __future__ import annotations

import signal
import time

import pytest

from preceptor_clients.http.gateway import GatewayClient
from preceptor_trainer.run.watching.metrics_log import read_metrics

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def kill_after(running, step: int, *, life: int, **overrides: object) -> None:
    """Starts the trainer's `life`-th life and kills it as soon as it has written `step`."""
    trainer = running.start_trainer(**overrides)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        metrics = running.run_dir / "metrics.jsonl"
        if metrics.exists() and f'"step": {step + 1}, "lineage": "l{life}"' in metrics.read_text():
            break
        assert trainer.poll() is None, running.trainer_log()
        time.sleep(0.01)
    trainer.send_signal(signal.SIGKILL)
    trainer.wait()


# Before the first checkpoint, between two, and right at one; and, at leisure, at every step.
@pytest.mark.parametrize(
    "steps", [(0, 2, 3), pytest.param(tuple(range(6)), marks=pytest.mark.gauntlet)], ids=str
)
async def test_a_killed_run_continues_with_identical_losses(finished, other, steps):
    for life, step in enumerate(steps):
        kill_after(other, step, life=life)
    code = other.start_trainer().wait(timeout=300)

    assert code == 0, other.trainer_log()
    found = [path for path in (other.run_dir / "weights").glob("*/*/[0-9]*") if path.is_dir()]
    assert sorted({int(path.name) for path in found}) == [0, 2, 4, 6]
    assert len(found) <= 5, "those of the line, and the best one, which may be of an ended lineage"
    undisturbed, resumed = read_metrics(finished.run_dir), read_metrics(other.run_dir)
    assert [m["loss"] for m in resumed] == [m["loss"] for m in undisturbed]
    assert [m["reward"] for m in resumed] == [m["reward"] for m in undisturbed]
    async with GatewayClient(other.deployment.gateway_url, other.deployment.key) as client:
        accounting = await client.accounting(other.run_dir.name)
    assert accounting.consumed == 6 * 3 * 4
    assert accounting.consumed_twice == 0
    assert accounting.lineages == len(steps) + 1
