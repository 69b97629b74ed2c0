"""A very large submission costs its own caller time, and nobody else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import numpy as np
import pytest
from dispatch_parts import query, submission

from preceptor_clients.contract import wire
from preceptor_clients.contract.schemas import LogprobsRequest, PrefixSubmission

NUM_SUBMISSIONS = 4096
NUM_TOKENS = 256


def large_body(attempt: int) -> bytes:
    """As many questions as one request may hold."""
    ids = np.arange(NUM_TOKENS, dtype=np.int32) % 90

    def one(n: int) -> PrefixSubmission:
        asked = query("calm").model_copy(
            update={"response_ids": np.concatenate([np.array([n % 90, n // 90], np.int32), ids])}
        )
        return submission(f"large-{attempt}-{n}", asked)

    request = LogprobsRequest(
        expert="moody", submissions=tuple(one(n) for n in range(NUM_SUBMISSIONS))
    )
    return wire.render(request, wire.FRAME)


async def seconds_of(ask: Callable[[int], Awaitable[Any]], large: asyncio.Task[Any]) -> list[float]:
    """Seconds of each small request, sent one after the other while the large one is under way."""
    seconds: list[float] = []
    while not large.done():
        began = time.monotonic()
        await ask(len(seconds))
        seconds.append(time.monotonic() - began)
    return seconds


async def test_small_requests_are_answered_while_a_very_large_one_is_taken(
    make_deployment: Callable[..., Any], moody: Any
) -> None:
    shares: list[tuple[float, float]] = []
    async with (
        moody() as url,
        make_deployment(own_process=True, moody=url) as deployment,
        httpx.AsyncClient(timeout=120, trust_env=False) as client,
    ):
        key = deployment.settings.key_for("trainer").read_text().strip()
        headers = {"authorization": f"Bearer {key}", "content-type": wire.FRAME}
        gateway = f"http://127.0.0.1:{deployment.settings.gateway.port}"

        async def submit(number: int) -> None:
            small = submission(f"small-{len(shares)}-{number}", query("calm", number))
            await deployment.client.submit_logprobs("moody", [small])

        async def look(number: int) -> None:
            assert (await client.get(f"{gateway}/livez")).status_code == 200

        await submit(8000)
        for attempt in range(5):
            body = await asyncio.to_thread(large_body, attempt)
            began = time.monotonic()
            large = asyncio.create_task(
                client.post(f"{gateway}/v1/logprobs", content=body, headers=headers)
            )
            submits, looks = await asyncio.gather(
                seconds_of(submit, large), seconds_of(look, large)
            )
            large_s = time.monotonic() - began
            assert large.result().status_code == 200
            shares.append((max(looks) / large_s, max(submits) / large_s))
            # A look needs the event loop alone, a submission also the one transaction that writes.
            # The least of them, because whatever else the machine does can only add to a wait.
            of_looks, of_submits = (min(column) for column in zip(*shares, strict=True))
            if of_looks < 0.2 and of_submits < 0.35:
                return
    pytest.fail(f"shares of the time of a large request: {shares}")
