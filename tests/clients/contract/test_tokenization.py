"""A service with a tokenizer: asked through the SDK and its client."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest

from preceptor_clients.contract.errors import Invalid, NotFound
from preceptor_clients.contract.schemas import Capabilities, Message, ServiceInfo
from preceptor_clients.contract.tokenization import MAX_CHARACTERS, TokenIds, TokenizeCall
from preceptor_clients.http.connection import NO_RETRY
from preceptor_clients.http.service import ServiceClient
from preceptor_clients.sdk.service import service_app

CHAT = (Message(role="user", content="ab"),)


class Silent:
    """Has no tokenizer."""

    def info(self) -> ServiceInfo:
        capabilities = Capabilities(vocab_fingerprint="ab" * 32, vocab_size=128)
        return ServiceInfo(name="codes", role="expert", version="1", capabilities=capabilities)

    async def logprobs(self, queries: object, answer_keys: object) -> Any:
        raise AssertionError("nobody asks for scores here")


class Codes(Silent):
    """The ids are the characters' own codes; its template knows no tools."""

    async def tokenize(self, call: TokenizeCall) -> TokenIds:
        if any(message.role == "tool" for message in call.messages):
            raise Invalid("tools have no template", field="messages")
        text = call.prompt or "".join(message.content for message in call.messages)
        return TokenIds(ids=np.array([ord(c) for c in text], np.int32))


def client_of(expert: Any) -> ServiceClient:
    transport = httpx.ASGITransport(service_app(expert))
    return ServiceClient("http://expert", transport=transport, retry=NO_RETRY)


async def test_a_class_with_a_tokenizer_says_so_and_gives_ids() -> None:
    async with client_of(Codes()) as client:
        info = await client.info()
        text = await client.tokenize(TokenizeCall(prompt="abc"), 10)
        chat = await client.tokenize(TokenizeCall(messages=CHAT), 10)
        nothing = await client.tokenize(TokenizeCall(prompt=""), 10)

    assert info.capabilities.tokenizer
    assert text.ids.tolist() == [97, 98, 99]
    assert chat.ids.tolist() == [97, 98]
    assert nothing.ids.tolist() == []


async def test_a_class_without_one_says_so_and_has_no_route() -> None:
    async with client_of(Silent()) as client:
        info = await client.info()
        with pytest.raises(NotFound):
            await client.tokenize(TokenizeCall(prompt="abc"), 10)

    assert not info.capabilities.tokenizer


async def test_what_the_template_refuses_is_refused_by_name() -> None:
    chat = (Message(role="tool", content="4"),)

    async with client_of(Codes()) as client:
        with pytest.raises(Invalid, match="no template") as refused:
            await client.tokenize(TokenizeCall(messages=chat), 10)

    assert [error.field for error in refused.value.errors] == ["messages"]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({}, "prompt"),
        ({"prompt": "a", "messages": CHAT}, "prompt"),
        ({"prompt": "a" * (MAX_CHARACTERS + 1)}, "prompt"),
        ({"messages": (Message(role="user", content="a" * MAX_CHARACTERS), *CHAT)}, "messages"),
    ],
)
async def test_neither_both_and_too_much_are_refused_by_name(
    fields: dict[str, Any], named: str
) -> None:
    # As another language might send it: the class itself would refuse to be built.
    body = TokenizeCall.model_construct(**fields)

    async with client_of(Codes()) as client:
        with pytest.raises(Invalid) as refused:
            await client.call("POST", "/v1/tokenize", body=body, media_type="application/json")

    assert [error.field for error in refused.value.errors] == [named]
