"""Our adapter for OpenAI-compatible servers, in front of our own gateway's vLLM face.

Everything is real: the shipped student as a larger model, gateway, broker, dispatcher, sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from tokenizers import normalizers

from preceptor_clients.contract.errors import ServiceFailed
from preceptor_clients.contract.schemas import Message, PrefixAnswer, PrefixQuery, Prompt
from preceptor_clients.kit.files import make_key_file
from preceptor_clients.sdk.service import service_app
from preceptor_services.experts.larger_model import LargerModel
from preceptor_services.experts.remote.scoring.openai_http import OpenAIServer
from preceptor_trainer.student import STUDENT_DIR
from preceptor_trainer.student.architecture import make_tokenizer


@pytest.fixture
async def larger(tmp_path: Path) -> AsyncIterator[tuple[LargerModel, str]]:
    """The expert and where it listens."""
    make_key_file(tmp_path / "keys" / "services" / "service.key")
    key = (tmp_path / "keys" / "services" / "service.key").read_text().strip()
    expert = LargerModel(model=str(STUDENT_DIR), dtype="float32", threads=1)
    config = uvicorn.Config(service_app(expert, key=key), port=0, log_level="error", ws="none")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield expert, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await task


@pytest.fixture
async def connect(
    larger: tuple[LargerModel, str], make_deployment: Callable[..., Any], tmp_path: Path
) -> AsyncIterator[Callable[..., OpenAIServer]]:
    """Makes adapters of the gateway's face, with a tokenizer of their own each."""
    async with (
        contextlib.AsyncExitStack() as stack,
        make_deployment(larger=larger[1]) as gateway,
        gateway.dispatching(),
    ):
        async with asyncio.timeout(30):
            while (await gateway.client.experts()).services[0].state != "ready":
                await asyncio.sleep(0.02)

        def make(tokenizer: Path) -> OpenAIServer:
            adapter = OpenAIServer(
                url=f"http://127.0.0.1:{gateway.settings.gateway.port}/vllm/larger",
                key_file=str(tmp_path / "keys" / "trainer.key"),
                tokenizer=str(tokenizer),
                max_top_k=8,
                start_timeout_s=60,
            )
            stack.push_async_callback(adapter.stop)
            return adapter

        yield make


async def test_it_finds_the_expert_and_answers_as_the_expert_itself(connect, larger) -> None:
    adapter, expert = connect(STUDENT_DIR), larger[0]
    capabilities = expert.info().capabilities
    query = PrefixQuery(
        prompt=Prompt(messages=(Message(role="user", content="[3,1]->[1,3]"),)),
        response_ids=np.array([*b"sorted(x)", 257], np.int32),
        vocab_fingerprint=capabilities.vocab_fingerprint,
        top_k=8,
    )

    await adapter.start()
    [through] = await adapter.logprobs([query], [])
    [itself] = await expert.logprobs([query], [])

    found = adapter.info().capabilities
    assert (found.max_top_k, found.max_context) == (8, capabilities.max_context - 1)
    assert isinstance(through, PrefixAnswer), through
    np.testing.assert_allclose(through.own_logprobs_P, itself.own_logprobs_P, atol=2e-3)
    np.testing.assert_allclose(through.logprobs_PK, itself.logprobs_PK, atol=2e-3)


async def test_a_tokenizer_that_differs_in_its_rules_alone_is_found_out(connect, tmp_path) -> None:
    # The same vocabulary, so the same fingerprint: only the ids of a text tell.
    other = make_tokenizer()
    other.backend_tokenizer.normalizer = normalizers.Lowercase()
    other.save_pretrained(tmp_path / "other")

    with pytest.raises(ServiceFailed, match="another tokenizer"):
        await connect(tmp_path / "other").start()
