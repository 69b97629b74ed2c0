"""DAPO's form of GRPO through real services: groups without signal are replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from preceptor_clients.http.gateway import GatewayClient
from preceptor_trainer.run.watching.metrics_log import read_metrics

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


async def test_groups_without_signal_are_replaced_and_their_cost_is_told(running):
    dapo = running.run("dapo")

    trainer = dapo.start_trainer(
        recipe="dapo:recipe", cwd=Path(__file__).parent, problems_per_step=8
    )

    assert trainer.wait(timeout=300) == 0, dapo.trainer_log()
    steps = read_metrics(dapo.run_dir)
    assert [step["rollouts"] for step in steps] == [2 * 4] * 6
    assert all(step["with_signal"] == 1 for step in steps)
    discarded = [step["discarded_rollouts"] for step in steps]
    assert sum(discarded) > 0, "every group had signal, so nothing was replaced"
    assert all(
        (step["discarded_tokens"] > 0) == (n > 0) for step, n in zip(steps, discarded, strict=True)
    )
    async with GatewayClient(running.deployment.gateway_url, running.deployment.key) as client:
        accounting = await client.accounting("dapo")
    assert (accounting.consumed, accounting.consumed_twice) == (6 * 2 * 4, 0)
