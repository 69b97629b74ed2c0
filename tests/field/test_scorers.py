"""What scoring clients really send to the face of a vLLM server."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from ..services.world import World

KEY = f"trainer-{'k' * 40}"
IDS = [5, 6, 1, 2]
USUAL: dict[str, Any] = {"prompt": IDS, "max_tokens": 1, "prompt_logprobs": 3}


async def post(world: World, body: dict[str, Any]) -> httpx.Response:
    """A completion request; whatever stands on the queue is answered meanwhile."""
    transport = httpx.ASGITransport(world.app)
    headers = {"authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://g", headers=headers) as http:
        asked = asyncio.create_task(
            http.post("/vllm/uniform/v1/completions", json={"model": "uniform"} | body, timeout=30)
        )
        while not asked.done():
            if world.queue.entries:
                await world.work()
            await asyncio.sleep(0.01)
        return asked.result()


async def rows(world: World, body: dict[str, Any]) -> Any:
    response = await post(world, body)
    assert response.status_code == 200, response.text
    [choice] = response.json()["choices"]
    assert choice["prompt_token_ids"] == IDS
    return choice["prompt_logprobs"]


@pytest.mark.parametrize(
    "sent",
    [
        USUAL | {"temperature": 0},
        USUAL | {"temperature": 0.0, "logprobs": 0, "skip_special_tokens": False, "seed": 1},
        {"prompt_token_ids": IDS, "max_tokens": 1, "prompt_logprobs": 3},
        {"prompt": None, "prompt_token_ids": IDS, "prompt_logprobs": 3},
        {"prompt": {"prompt_token_ids": IDS}, "prompt_logprobs": 3},
        {"prompt": [{"prompt_token_ids": IDS}], "prompt_logprobs": 3},
        {"prompt": IDS, "max_tokens": 0, "echo": True, "logprobs": 3},
        USUAL | {"echo": True, "logprobs": 1},
    ],
)
async def test_every_way_of_asking_gets_the_same_rows(world: World, sent: dict[str, Any]) -> None:
    assert await rows(world, sent) == await rows(world, USUAL)


async def test_the_whole_vocabulary_is_as_much_as_the_expert_gives(world: World) -> None:
    [first, *found] = await rows(world, USUAL | {"prompt_logprobs": -1})

    assert first is None
    assert [len(row) for row in found] == [8, 8, 8]


@pytest.mark.parametrize("max_tokens", [0, 1])
async def test_an_echo_has_the_shape_that_its_clients_cut(world: World, max_tokens: int) -> None:
    sent = {"prompt": IDS, "max_tokens": max_tokens, "echo": True, "logprobs": 2, "temperature": 0}

    response = await post(world, sent)

    echoed = response.json()["choices"][0]["logprobs"]
    found = await rows(world, sent)
    own = [row[str(token)]["logprob"] for token, row in zip(IDS[1:], found[1:], strict=True)]
    generated = [None] * max_tokens
    assert echoed["token_logprobs"] == [None, *own, *generated]
    assert echoed["tokens"] == [*(f"token_id:{i}" for i in IDS), *[""] * max_tokens]
    assert echoed["top_logprobs"][1]["token_id:0"] == found[1]["0"]["logprob"]
    assert {len(values) for values in echoed.values()} == {len(IDS) + max_tokens}


@pytest.mark.parametrize(
    ("sent", "field"),
    [
        ({"prompt": IDS, "max_tokens": 1}, "prompt_logprobs"),
        (USUAL | {"prompt_token_ids": [1, 2]}, "prompt"),
        (USUAL | {"prompt_logprobs": -2}, "prompt_logprobs"),
        (USUAL | {"temperature": 0.7}, "temperature"),
        (USUAL | {"temperature": -1}, "temperature"),
        ({"prompt_logprobs": 1}, "prompt"),
    ],
)
async def test_what_cannot_be_meant_is_named(
    world: World, sent: dict[str, Any], field: str
) -> None:
    response = await post(world, sent)

    assert response.status_code == 422, response.text
    assert response.json()["errors"][0]["field"].startswith(field)
