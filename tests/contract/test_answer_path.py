"""The path of an answer through real processes: `preceptor up`, and a client who asks.

Broker, gateway, dispatcher and expert are processes of their own; the test knows nothing but the
ready file.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from preceptor_clients.contract.deployment import (
    EMBEDDED,
    DeployedGateway,
    Deployment,
    local_key,
    local_service,
    to_toml,
)
from preceptor_clients.contract.errors import (
    Invalid,
    NotFound,
    Unauthorised,
    VocabularyMismatch,
    from_problem,
)
from preceptor_clients.contract.schemas import Message, PrefixQuery, PrefixSubmission, Prompt
from preceptor_clients.http.gateway import GatewayClient
from preceptor_services.jobs.embedded_broker import free_port

pytestmark = pytest.mark.e2e

MOODY_FOLDER = Path(__file__).parents[1] / "services" / "dispatcher"
FINGERPRINT = "ab" * 32
_START_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Running:
    """A deployment that is up."""

    description: dict[str, Any]
    process: subprocess.Popen[bytes]
    log: Path
    """Where the expert notes its calls."""

    def key(self, name: str) -> str:
        return Path(self.description["keys"][name]).read_text().strip()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One deployment for all tests of this file; its orderly end is checked too."""
    folder = tmp_path_factory.mktemp("up")
    config, ready_file, log = folder / "preceptor.toml", folder / "ready.json", folder / "calls.txt"
    log.touch()  # the expert's first call may come after the first look
    port = free_port()  # chosen here, because the expert is told where to put late answers
    options = {
        "log": str(log),
        "late_url": f"http://127.0.0.1:{port}",
        "late_key_file": f"{folder}/keys/expert.key",
    }
    moody = local_service("moody", "moody:Moody", options).model_copy(update={"self_test": False})
    deployment = Deployment(
        gateway=DeployedGateway(port=port, broker=EMBEDDED),
        keys={"trainer": local_key("trainer"), "expert": local_key("expert", service="moody")},
        experts={"moody": moody},
    )
    config.write_text(to_toml(deployment))
    words = (sys.executable, "-m", "preceptor_clients.cli", "up", "--config", str(config))
    places = [str(MOODY_FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])]
    with (folder / "up.txt").open("wb") as output:
        process = subprocess.Popen(
            [*words, "--ready-file", str(ready_file)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
            stdout=output,
            stderr=output,
        )
    try:
        end = time.monotonic() + _START_TIMEOUT_S
        while not ready_file.exists():
            assert process.poll() is None, (folder / "up.txt").read_text()
            assert time.monotonic() < end, "it was not ready in time"
            time.sleep(0.05)
        description = json.loads(ready_file.read_text())
        yield Running(description, process, log)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert not [n for n, pid in description["pids"].items() if psutil.pid_exists(pid)]
        assert not ready_file.exists()
    finally:
        process.kill()
        process.wait()


@pytest.fixture
async def gateway(running: Running) -> AsyncIterator[GatewayClient]:
    async with GatewayClient(running.description["gateway"], running.key("trainer")) as client:
        yield client


def submission(key: str, mood: str = "well", **fields: Any) -> PrefixSubmission:
    asked = {
        "prompt": Prompt(messages=(Message(role="user", content=mood),)),
        "response_ids": np.array([7, 8, 9]),
        "vocab_fingerprint": FINGERPRINT,
        "top_k": 4,
    }
    return PrefixSubmission(idempotency_key=key, query=PrefixQuery(**{**asked, **fields}))


async def test_a_question_travels_and_its_answer_comes_back(gateway: GatewayClient) -> None:
    [outcome] = await gateway.logprobs("moody", [submission("first")], timeout_s=30)

    assert outcome.ticket.state == "done"
    assert outcome.answer.token_ids_P.tolist() == [7, 8, 9]
    np.testing.assert_allclose(np.exp(outcome.answer.logprobs_PK), 0.01, rtol=1e-3)
    assert outcome.answer.expert == "moody"


async def test_the_same_key_is_the_same_ticket_and_an_equal_question_shares_its_answer(
    gateway: GatewayClient, running: Running
) -> None:
    first = await gateway.logprobs("moody", [submission("k", "shared")], timeout_s=30)
    again = await gateway.logprobs("moody", [submission("k", "shared")], timeout_s=30)
    other = await gateway.logprobs("moody", [submission("l", "shared")], timeout_s=30)

    assert first[0].ticket.id == again[0].ticket.id != other[0].ticket.id
    assert first[0].ticket.answer_id == other[0].ticket.answer_id
    assert running.log.read_text().split().count("shared") == 1


async def test_a_late_answer_arrives_under_the_runs_cursor(gateway: GatewayClient) -> None:
    [promised] = await gateway.logprobs(
        "moody", [submission("late", "later")], run="night", timeout_s=30
    )
    assert promised.ticket.state == "waiting"

    async with asyncio.timeout(30):
        while not (page := await gateway.arrivals("night")).arrivals:
            await asyncio.sleep(0.05)
    [outcome] = await gateway.collect_logprobs([page.arrivals[0].ticket])

    assert page.arrivals[0].idempotency_key == "late"
    assert outcome.answer is not None
    assert (await gateway.arrivals("night", after=page.cursor)).arrivals == ()


async def test_R8_a_cancelled_call_is_broken_off_at_the_expert(
    gateway: GatewayClient, running: Running
) -> None:
    [posted] = await gateway.submit_logprobs("moody", [submission("h", "hang")])
    async with asyncio.timeout(30):
        while "hang" not in running.log.read_text().split():
            await asyncio.sleep(0.02)
        await gateway.cancel(posted.ticket.id)
        while "aborted hang" not in running.log.read_text():
            await asyncio.sleep(0.02)

    [outcome] = await gateway.logprobs("moody", [submission("after")], timeout_s=30)
    assert outcome.answer is not None


async def test_bad_questions_are_clear_problems_and_their_neighbours_are_answered(
    gateway: GatewayClient,
) -> None:
    outcomes = await gateway.logprobs(
        "moody",
        [
            submission("vocabulary", vocab_fingerprint="00" * 32),
            submission("outside", response_ids=np.array([7, 100])),
            submission("well"),
            submission("nonsense", "nonsense"),
        ],
        timeout_s=30,
    )

    assert isinstance(from_problem(outcomes[0].problem), VocabularyMismatch)
    assert isinstance(from_problem(outcomes[1].problem), Invalid)
    assert outcomes[1].problem.errors[0].field == "submissions[1].query.response_ids"
    assert outcomes[2].answer is not None
    assert outcomes[3].problem.code == "answer-refused"


async def test_an_unknown_expert_and_a_wrong_key_are_clear_problems(
    gateway: GatewayClient, running: Running
) -> None:
    with pytest.raises(NotFound, match="nobody"):
        await gateway.logprobs("nobody", [submission("x")], timeout_s=30)
    async with GatewayClient(running.description["gateway"], "wrong") as stranger:
        with pytest.raises(Unauthorised):
            await stranger.logprobs("moody", [submission("x")], timeout_s=30)


async def test_a_killed_expert_comes_back_and_answers_the_question_that_killed_it_not(
    gateway: GatewayClient, running: Running
) -> None:
    [poison] = await gateway.logprobs("moody", [submission("poison", "die")], timeout_s=90)
    [well] = await gateway.logprobs("moody", [submission("well again", "after")], timeout_s=90)

    assert poison.problem.code in ("unavailable", "service-failed")
    assert well.answer is not None
    assert running.log.read_text().split().count("die") == 3
