"""The overlapped schedule, through real services: it promises accounting."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from preceptor_clients.contract.schemas import (
    Accounting,
    Capabilities,
    PrefixAnswer,
    PrefixQuery,
    ServiceInfo,
    ServiceLimits,
)
from preceptor_clients.http.gateway import GatewayClient
from preceptor_clients.sdk.answers import Distributions, build_answer
from preceptor_trainer.learner.policy import Policy
from preceptor_trainer.run.watching.metrics_log import read_metrics
from preceptor_trainer.student import STUDENT_DIR

from .conftest import Running

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


async def test_every_rollout_is_used_once_and_a_stale_one_keeps_its_future_term(running):
    overlapped = running.run("overlapped")
    run_dir = overlapped.run_dir

    trainer = overlapped.start_trainer(recipe="overlapped:recipe", cwd=Path(__file__).parent)

    assert trainer.wait(timeout=300) == 0, overlapped.trainer_log()
    accounting = await accounting_of(overlapped)
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


class Tardy:
    """Uniform over the student's vocabulary, after a while."""

    delay_s = 0.0

    def __init__(self) -> None:
        policy = Policy(STUDENT_DIR)
        self._vocab_size, self._fingerprint = policy.vocab_size, policy.vocab_fingerprint

    def info(self) -> ServiceInfo:
        return ServiceInfo(
            name="tardy",
            role="expert",
            version="1",
            capabilities=Capabilities(
                vocab_fingerprint=self._fingerprint, vocab_size=self._vocab_size
            ),
            limits=ServiceLimits(max_concurrency=16),
        )

    async def logprobs(
        self, queries: Sequence[PrefixQuery], answer_keys: Sequence[str]
    ) -> list[PrefixAnswer]:
        await asyncio.sleep(self.delay_s)
        return [self._answer(query) for query in queries]

    def _answer(self, query: PrefixQuery) -> PrefixAnswer:
        P, K = query.num_positions, query.top_k
        distributions = Distributions(
            ids_PK=np.tile(np.arange(K), (P, 1)),
            logprobs_PK=np.full((P, K), -np.log(self._vocab_size), np.float32),
            own_logprobs_P=None,
        )
        return build_answer(query, distributions, expert="tardy", expert_version="1")


async def accounting_of(run: Running) -> Accounting:
    async with GatewayClient(run.deployment.gateway_url, run.deployment.key) as client:
        return await client.accounting(run.run_dir.name)


@pytest.mark.gauntlet
def test_a_killed_run_whose_answers_come_late_uses_none_of_them_twice(running: Running):
    run = running.run("overlapped-killed")
    options = {"recipe": "overlapped:late", "cwd": Path(__file__).parent}

    tardy = Tardy()
    with running.expert("tardy", tardy):
        tardy.delay_s = 2.0  # not while the gateway tests what it declares
        for point in (("record", 3), ("checkpoint", 1), ("metrics", 2)):
            code = run.start_trainer(kill_at=point, **options).wait(timeout=300)
            assert code == -signal.SIGKILL, run.trainer_log()
        saved = max((run.run_dir / "checkpoints").glob("*/unused.pt"), default=None)
        assert saved is not None, "nothing waited at a checkpoint"
        waiting = torch.load(saved, weights_only=True)
        assert run.start_trainer(**options).wait(timeout=300) == 0, run.trainer_log()

    steps = read_metrics(run.run_dir)
    joined = sum(step["late/joined"] for step in steps)
    accounting = asyncio.run(accounting_of(run))
    assert [step["step"] for step in steps] == list(range(1, 7))
    assert {name for group in waiting for name in group["owed"]} == {"tardy"}
    assert joined > 0
    assert (accounting.consumed, accounting.consumed_twice) == (6 * 3 * 4 + joined, 0)
