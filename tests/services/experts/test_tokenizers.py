"""Experts with a model give ids by the model's own tokenizer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from transformers import AutoTokenizer

from preceptor_clients.contract.errors import Invalid
from preceptor_clients.contract.schemas import Message
from preceptor_clients.contract.tokenization import TokenizeCall
from preceptor_services.experts.larger_model import LargerModel
from preceptor_services.experts.self_teacher import SelfTeacher

from .conftest import MAX_POSITIONS, TinyPolicy

CHAT = (Message(role="user", content="[3,1]->[1,3]"), Message(role="assistant", content="x"))


@pytest.fixture(params=[LargerModel, SelfTeacher])
def expert(request: pytest.FixtureRequest, policy: TinyPolicy) -> Iterator[Any]:
    expert = request.param(model=str(policy.folder), threads=1, dtype="float32")
    yield expert
    expert._torch.shutdown()


async def ids_of(expert: Any, **fields: Any) -> list[int]:
    return (await expert.tokenize(TokenizeCall(**fields))).ids.tolist()


async def test_a_text_has_the_ids_that_the_folders_tokenizer_gives(
    expert: Any, policy: TinyPolicy
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(policy.folder)
    text = "sorted(x)<|end|> ü"

    ids = await ids_of(expert, prompt=text)

    assert ids == tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text


async def test_a_chat_ends_as_it_was_asked_to(expert: Any, policy: TinyPolicy) -> None:
    tokenizer = AutoTokenizer.from_pretrained(policy.folder)
    messages = [message.model_dump() for message in CHAT]

    for prompted in (True, False):
        text = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=prompted
        )
        ids = await ids_of(expert, messages=CHAT, add_generation_prompt=prompted)
        assert ids == tokenizer.encode(text, add_special_tokens=False)
    assert await ids_of(expert, messages=CHAT) == expert._model.encode(messages)


async def test_a_text_longer_than_the_context_still_has_ids(expert: Any) -> None:
    assert len(await ids_of(expert, prompt="x" * (2 * MAX_POSITIONS))) == 2 * MAX_POSITIONS


@pytest.mark.parametrize("template", [None, "{{ raise_exception('turns must alternate') }}"])
async def test_a_chat_that_the_template_does_not_take_is_the_callers_fault(
    expert: Any, template: str | None
) -> None:
    expert._model.tokenizer.chat_template = template

    with pytest.raises(Invalid, match="template") as refused:
        await ids_of(expert, messages=CHAT)

    assert refused.value.errors[0].field == "messages"


async def test_ids_do_not_wait_for_the_model(expert: Any) -> None:
    gate = threading.Event()
    expert._torch.submit(gate.wait)

    try:
        async with asyncio.timeout(60):
            assert await ids_of(expert, prompt="x") == [ord("x")]
    finally:
        gate.set()
