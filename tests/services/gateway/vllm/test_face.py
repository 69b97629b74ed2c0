"""An expert asked as if it were a vLLM server."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import httpx
import numpy as np
import pytest

from preceptor_services.gateway.routes.vllm import face as vllm_face

from ...world import World

KEY = f"trainer-{'k' * 40}"


async def post(world: World, expert: str = "uniform", **fields: Any) -> httpx.Response:
    """A completion request; whatever stands on the queue is answered meanwhile."""
    body = {"model": expert, "prompt": [5, 6, 1, 2], "max_tokens": 1, "prompt_logprobs": 3}
    transport = httpx.ASGITransport(world.app)
    headers = {"authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://g", headers=headers) as http:
        asked = asyncio.create_task(
            http.post(f"/vllm/{expert}/v1/completions", json=body | fields, timeout=30)
        )
        while not asked.done():
            if world.queue.entries:
                await world.work()
            await asyncio.sleep(0.01)
        return asked.result()


async def test_every_position_but_the_first_has_its_best_ids_and_its_own(world):
    response = await post(world)

    assert response.status_code == 200, response.text
    [choice] = response.json()["choices"]
    first, *rows = choice["prompt_logprobs"]
    assert first is None
    assert len(rows) == 3
    for row, own in zip(rows, (6, 1, 2), strict=True):
        assert {"0", "1", "2", str(own)} == row.keys()
        assert row[str(own)]["logprob"] == pytest.approx(-np.log(16), abs=1e-3)
        assert row["0"]["rank"] == 1
    assert rows[0]["6"]["rank"] == 4
    assert choice["prompt_token_ids"] == [5, 6, 1, 2]


async def test_several_sequences_come_back_in_order(world):
    response = await post(world, prompt=[[5, 6], [1, 2, 3]])

    choices = response.json()["choices"]
    assert [c["prompt_token_ids"] for c in choices] == [[5, 6], [1, 2, 3]]
    assert [len(c["prompt_logprobs"]) for c in choices] == [2, 3]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 0.7),
        ("max_tokens", 16),
        ("n", 2),
        ("stream", True),
        ("model", "gpt"),
        ("prompt_logprobs", 9),
        ("prompt", "text"),
        ("prompt", [5, 6, 99]),
    ],
)
async def test_what_cannot_be_answered_is_a_clear_4xx(world, field, value):
    response = await post(world, **{field: value})

    assert response.status_code == 422, response.text
    assert response.headers["content-type"] == "application/problem+json"


async def test_a_masked_position_is_no_number(world):
    usual = world.uniform
    world.uniform = lambda query, expert="uniform": usual(
        query, expert, mask_P=np.array([True, False, True])
    )

    response = await post(world)

    assert response.status_code == 409
    assert response.json()["code"] == "not-answered"
    assert "position 2" in response.json()["detail"]


async def test_an_answer_that_takes_longer_than_the_request_may_is_a_refusal(world, monkeypatch):
    monkeypatch.setattr(vllm_face, "_WAIT_MS", 100)
    transport = httpx.ASGITransport(world.app)
    headers = {"authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://g", headers=headers) as http:
        response = await http.post(
            "/vllm/uniform/v1/completions", json={"prompt": [5, 6], "prompt_logprobs": 1}
        )

    assert response.status_code == 409
    assert response.json()["code"] == "not-answered"
    assert int(response.headers["retry-after"]) >= 1


async def test_a_client_without_keys_has_one_in_its_address(world):
    coded = base64.b64encode(f"any:{KEY}".encode()).decode()
    transport = httpx.ASGITransport(world.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://g/vllm/uniform") as http:
        carried = {"authorization": f"Basic {coded}"}
        listed = await http.get("/v1/models", headers=carried)
        refused = await http.get("/v1/models")
        health = await http.get("/health", headers=carried)

    assert listed.json()["data"][0]["id"] == "uniform"
    assert refused.status_code == 401
    assert health.status_code == 200
