"""DAPO's form of GRPO through real services: groups without signal are replaced."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest

from preceptor_clients.http.gateway import GatewayClient
from preceptor_services.provenance.command import trace_target
from preceptor_trainer.run.watching.metrics_log import read_metrics

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


async def test_groups_without_signal_are_replaced_their_cost_is_told_and_a_token_is_traced(
    running, capsys
):
    dapo = running.run("dapo")

    trainer = dapo.start_trainer(
        recipe="dapo:recipe", cwd=Path(__file__).parent, problems_per_step=8, steps=3
    )

    assert trainer.wait(timeout=300) == 0, dapo.trainer_log()
    steps = read_metrics(dapo.run_dir)
    assert [step["rollouts"] for step in steps] == [2 * 4] * 3
    assert all(step["with_signal"] == 1 for step in steps)
    discarded = [step["discarded_rollouts"] for step in steps]
    assert sum(discarded) > 0, "every group had signal, so nothing was replaced"
    assert all(
        (step["discarded_tokens"] > 0) == (n > 0) for step, n in zip(steps, discarded, strict=True)
    )
    async with GatewayClient(running.deployment.gateway_url, running.deployment.key) as client:
        accounting = await client.accounting("dapo")
    assert (accounting.consumed, accounting.consumed_twice) == (3 * 2 * 4, 0)

    token = json.loads((dapo.run_dir / "summary.json").read_text())["trace_target"]
    assert f"trace {token} --run-dir" in dapo.trainer_log()
    await asyncio.to_thread(trace_target, token, run_dir=dapo.run_dir)
    printed = capsys.readouterr().out
    assert re.search(r"consumed by +step \d of lineage l0", printed), printed
    assert re.search(r"advantage \(up: made more likely\) +-?\d\.\d*[1-9]", printed), printed
    assert re.search(r" 1 +solved +this one", printed), printed
    assert re.search(r" 0 +failed", printed), printed
    assert re.search(r"from +executor, version", printed), printed
