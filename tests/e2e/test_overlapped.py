"""The overlapped schedule, through real services: it promises accounting."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from preceptor_clients.http.gateway import GatewayClient
from preceptor_trainer.run.metrics_log import read_metrics

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


async def test_every_rollout_is_used_once_and_a_stale_one_keeps_its_future_term(running):
    overlapped = running.run("overlapped")
    run_dir = overlapped.run_dir

    trainer = overlapped.start_trainer(recipe="overlapped:recipe", cwd=Path(__file__).parent)

    assert trainer.wait(timeout=300) == 0, overlapped.trainer_log()
    async with GatewayClient(running.deployment.gateway_url, running.deployment.key) as client:
        accounting = await client.accounting("overlapped")
    assert (accounting.consumed, accounting.consumed_twice) == (6 * 3 * 4, 0)
    steps = read_metrics(run_dir)
    assert [step["step"] for step in steps] == list(range(1, 7))
    stale = [step for step in steps if step.get("stale_weight") is not None]
    assert steps[0] not in stale, "the first step's rollouts are of the policy that trains on them"
    assert stale, "no rollout was stale, so nothing overlapped"
    # Costs go beyond the present token, whichever policy sampled it.
    assert all(step["advantage_size"] > 0 for step in steps)
    assert all(0 < step["stale_weight"] <= 2 for step in stale)
    evaluated = sorted(path.stem for path in (run_dir / "evaluations").glob("*.json"))
    assert evaluated == ["after", "before", "step-3"]
    assert json.loads((run_dir / "best.json").read_text())["weights"].startswith("overlapped/l0/")
