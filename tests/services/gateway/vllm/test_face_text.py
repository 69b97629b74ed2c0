"""Text at the vLLM face: its ids come from the expert, over a real socket."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn

from preceptor_clients.contract.schemas import Capabilities, ServiceInfo
from preceptor_clients.contract.tokenization import MAX_CHARACTERS, TokenIds, TokenizeCall
from preceptor_clients.sdk.service import service_app
from preceptor_services.gateway.app import connect_service
from preceptor_services.registry import tokenizers
from preceptor_services.registry.services import ServiceEntry

from ...world import World

KEY = f"trainer-{'k' * 40}"
START = 15


class Letters:
    """The letter a is 0 and so on; 15 begins a text, and a dot ends what the assistant says."""

    def __init__(self) -> None:
        self.asked: list[TokenizeCall] = []
        self.first = 0
        self.slow = False

    def info(self) -> ServiceInfo:
        capabilities = Capabilities(
            max_top_k=8, vocab_fingerprint="ab" * 32, vocab_size=16, max_context=64
        )
        return ServiceInfo(name="letters", role="expert", version="1", capabilities=capabilities)

    async def logprobs(self, queries: object, answer_keys: object) -> Any:
        raise AssertionError("the test answers for it")

    async def tokenize(self, call: TokenizeCall) -> TokenIds:
        self.asked.append(call)
        if self.slow:
            await asyncio.Event().wait()
        text = call.prompt or "".join(message.content for message in call.messages)
        ids = [START] * call.add_special_tokens + [self.first + ord(c) - ord("a") for c in text]
        return TokenIds(ids=np.array(ids, np.int32))


@pytest.fixture
async def letters(world: World) -> AsyncIterator[Letters]:
    """An expert with a tokenizer that the gateway knows."""
    expert = Letters()
    key_file = world.folder / "keys" / "service.key"
    app = service_app(expert, key=key_file.read_text())
    config = uvicorn.Config(app, port=0, log_level="error", ws="none", lifespan="off")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    registry = world.app.state.registry
    registry._connect = connect_service
    port = server.servers[0].sockets[0].getsockname()[1]
    entry = ServiceEntry(
        name="letters",
        role="expert",
        url=f"http://127.0.0.1:{port}",
        key_file=key_file,
        cost=0,
        priority=5,
        self_test=False,
    )
    await registry.add(entry)
    async with asyncio.timeout(30):
        await entry.heard.wait()
    yield expert
    server.should_exit = True
    await task


async def post(
    world: World, path: str = "/tokenize", expert: str = "letters", key: str = KEY, **body: Any
) -> httpx.Response:
    """A request with the key in the address, as clients that know no keys send it."""
    coded = base64.b64encode(f"any:{key}".encode()).decode()
    headers = {"authorization": f"Basic {coded}"}
    transport = httpx.ASGITransport(world.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://g", headers=headers) as http:
        asked = asyncio.create_task(http.post(f"/vllm/{expert}{path}", json=body, timeout=30))
        while not asked.done():
            if world.queue.entries:
                await world.work()
            await asyncio.sleep(0.01)
        return asked.result()


def refusal(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    return response.json()


async def test_a_text_has_the_experts_ids_and_its_start_unless_told(world, letters):
    usual = await post(world, prompt="cab", model="letters", temperature=0.3)
    bare = await post(world, prompt="cab", add_special_tokens=False)

    assert usual.json() == {"count": 4, "max_model_len": 64, "tokens": [START, 2, 0, 1]}
    assert bare.json() == {"count": 3, "max_model_len": 64, "tokens": [2, 0, 1]}


async def test_a_chat_goes_to_the_template_as_it_was_said(world, letters):
    chat = [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "c"}]

    open_ended = await post(world, messages=chat)
    closed = await post(world, messages=chat, add_generation_prompt=False, add_special_tokens=True)

    assert open_ended.json()["tokens"] == [0, 1, 2]
    assert closed.json()["tokens"] == [START, 0, 1, 2]
    assert [call.add_generation_prompt for call in letters.asked] == [True, False]
    assert [m.role for m in letters.asked[0].messages] == ["user", "assistant"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "prompt"),
        ({"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, "prompt"),
        ({"prompt": "a" * MAX_CHARACTERS}, "body"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": "a", "model": "gpt"}, "model"),
        ({"prompt": "a", "return_token_strs": True}, "return_token_strs"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "a"}], "tools": [{}]}, "tools"),
        (
            {"messages": [{"role": "user", "content": "a"}], "chat_template_kwargs": {"x": 1}},
            "chat_template_kwargs",
        ),
    ],
)
async def test_what_would_give_other_ids_never_reaches_the_expert(world, letters, body, field):
    problem = refusal(await post(world, **body), 413 if field == "body" else 422)

    assert problem["errors"][0]["field"] == field
    assert letters.asked == []


async def test_an_expert_without_a_tokenizer_is_a_422_with_the_reason(world):
    problem = refusal(await post(world, expert="uniform", prompt="a"), 422)

    assert problem["detail"] == "uniform has no tokenizer; send token ids"


async def test_the_same_keys_open_it_as_open_scores(world, letters):
    reader = world.settings.keys["reader"].file.read_text()

    refusal(await post(world, prompt="a", key=reader), 403)
    refusal(await post(world, prompt="a", key="unknown"), 401)
    refusal(await post(world, prompt="a", expert="nobody"), 404)


async def test_an_expert_that_is_gone_is_a_503_and_its_address_stays_unsaid(world, letters):
    world.app.state.registry._entries["letters"].url = "http://127.0.0.1:1"

    response = await post(world, prompt="a")

    assert refusal(response, 503)["detail"] == "letters does not answer"
    assert int(response.headers["retry-after"]) >= 1


async def test_an_expert_that_takes_too_long_is_a_504(world, letters, monkeypatch):
    monkeypatch.setattr(tokenizers, "_ANSWER_S", 0.2)
    letters.slow = True

    problem = refusal(await post(world, prompt="a"), 504)

    assert "letters took more than 0.2 s" in problem["detail"]


async def test_ids_outside_the_vocabulary_are_the_experts_fault(world, letters):
    letters.first = 10

    problem = refusal(await post(world, prompt="abcdefg"), 502)

    assert "outside its vocabulary of 16" in problem["detail"]


async def test_a_key_that_the_expert_refuses_is_not_the_callers(world, letters):
    key_file = world.folder / "keys" / "old.key"
    key_file.write_text("another-" + "k" * 40)
    world.app.state.registry._entries["letters"].key_file = key_file

    problem = refusal(await post(world, prompt="a"), 502)

    assert problem["code"] == "service-failed"


async def test_a_text_is_scored_as_its_ids_are(world, letters):
    asked = {"max_tokens": 1, "prompt_logprobs": 2}

    text = await post(world, "/v1/completions", prompt=["cab", "ba"], **asked)
    ids = await post(world, "/v1/completions", prompt=[[START, 2, 0, 1], [START, 1, 0]], **asked)
    bare = await post(world, "/v1/completions", prompt="cab", add_special_tokens=False, **asked)

    assert text.status_code == 200, text.text
    assert text.json()["choices"] == ids.json()["choices"]
    assert [c["prompt_token_ids"] for c in bare.json()["choices"]] == [[2, 0, 1]]


async def test_a_text_of_one_token_has_nothing_to_be_scored(world, letters):
    asked = {"prompt_logprobs": 2, "add_special_tokens": False}

    response = await post(world, "/v1/completions", prompt=["ab", "a"], **asked)

    assert refusal(response, 422)["errors"][0]["field"] == "prompt[1]"
