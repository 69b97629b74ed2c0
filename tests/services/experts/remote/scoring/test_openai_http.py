"""Claims about experts behind OpenAI-compatible servers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from preceptor_clients.conformance.subject import CheckOptions
from preceptor_clients.conformance.suite import check_expert
from preceptor_clients.contract.errors import (
    DeadlineExceeded,
    PreceptorError,
    ServiceFailed,
    ServiceUnavailable,
)
from preceptor_clients.contract.known import KnownAnswers, KnownCase
from preceptor_clients.contract.schemas import (
    FeedbackItem,
    Message,
    PrefixAnswer,
    PrefixQuery,
    Prompt,
)
from preceptor_clients.sdk.service import service_app
from preceptor_services.experts.remote.scoring.openai_http import OpenAIServer
from preceptor_trainer.learner.policy import Policy
from preceptor_trainer.student import STUDENT_DIR

from ..foreign import MAX_MODEL_LEN, FakeServer, true_logprobs

PROMPT = [72, 105, 256]
RESPONSE = [10, 200, 30, 257]


@pytest.fixture
async def connect(tokenizer_folder: Path) -> AsyncIterator[Callable[..., Any]]:
    made: list[OpenAIServer] = []

    async def start(server: FakeServer, **options: Any) -> OpenAIServer:
        defaults = {"timeout_s": 10.0, "start_timeout_s": 10.0, "tokenizer": str(tokenizer_folder)}
        expert = OpenAIServer(url=f"{server.url}/v1", **(defaults | options))
        made.append(expert)
        await expert.start()
        return expert

    yield start
    for expert in made:
        await expert.stop()


def query(expert: OpenAIServer, **fields: Any) -> PrefixQuery:
    values: dict[str, Any] = {
        "prompt": Prompt(ids=np.array(PROMPT)),
        "response_ids": RESPONSE,
        "vocab_fingerprint": expert.info().capabilities.vocab_fingerprint,
        "top_k": 8,
    }
    return PrefixQuery(**(values | fields))


async def asked(expert: OpenAIServer, **fields: Any) -> PrefixAnswer | PreceptorError:
    [reply] = await expert.logprobs([query(expert, **fields)], [])
    return reply


@pytest.mark.parametrize("owner", ["vllm", "sglang", "openai"])
async def test_it_passes_the_conformance_suite(owner, serve, connect):
    expert = await connect(await serve(owner=owner), max_batch=3)
    truth = true_logprobs([*PROMPT, *RESPONSE])[len(PROMPT) :]
    known = KnownAnswers(
        vocab_fingerprint=expert.info().capabilities.vocab_fingerprint or "",
        cases=(
            KnownCase(
                prompt_ids=tuple(PROMPT),
                response_ids=tuple(RESPONSE),
                logprobs=tuple(truth[np.arange(len(RESPONSE)), RESPONSE]),
            ),
        ),
        tolerance=1e-3,
    )
    transport = httpx.ASGITransport(service_app(expert))

    report = await check_expert(
        "http://expert", CheckOptions(known=known, tolerance=1e-3), transport
    )

    assert report.ok, report.as_text()
    passed = {v.check for v in report.verdicts if v.state == "passed"}
    # By text, bytes of this vocabulary that are no characters hide most rows of random ids.
    about_ids = {"index", "known"} if owner != "openai" else set[str]()
    assert {"door", "split", "normalisation", "batch", "limits"} | about_ids <= passed


async def test_the_shipped_student_behind_a_server_answers_as_it_does_here(serve, connect):
    policy = Policy(STUDENT_DIR)
    server = await serve(model=policy.model.eval(), max_model_len=256)
    expert = await connect(server, tokenizer=str(STUDENT_DIR))
    [response] = [list(b"sorted(x)\n")]

    reply = await asked(expert, response_ids=response, top_k=4)

    with torch.no_grad():
        logits = policy.model(input_ids=torch.tensor([[*PROMPT, *response]])).logits[0]
    expected = logits[len(PROMPT) - 1 : -1].log_softmax(-1).topk(4)
    assert isinstance(reply, PrefixAnswer)
    np.testing.assert_array_equal(reply.ids_PK, expected.indices.numpy())
    np.testing.assert_allclose(reply.logprobs_PK, expected.values.numpy(), atol=1e-4)


@pytest.mark.parametrize("owner", ["vllm", "sglang", "openai"])
async def test_rows_are_the_models_own_at_the_positions_asked(owner, serve, connect):
    expert = await connect(await serve(owner=owner), max_top_k=16)
    truth = true_logprobs([*PROMPT, *RESPONSE])[len(PROMPT) :][[0, 2, 3]]

    reply = await asked(expert, positions=((0, 1), (2, 4)), top_k=2)

    assert isinstance(reply, PrefixAnswer)
    own = truth[np.arange(3), [10, 30, 257]]
    mask = reply.mask_P
    assert mask.any()
    np.testing.assert_allclose(reply.own_logprobs_P[mask], own[mask], atol=1e-6)
    for row, expected in zip(np.flatnonzero(mask), truth[mask], strict=True):
        n = reply.num_entries_P[row]
        np.testing.assert_array_equal(reply.ids_PK[row, :n], np.argsort(-expected)[:n])
        np.testing.assert_allclose(
            reply.logprobs_PK[row, :n], np.sort(expected)[::-1][:n], atol=1e-6
        )


async def test_the_servers_cap_and_context_are_declared(serve, connect):
    capped = await connect(await serve(max_logprobs=20), max_top_k=64)
    silent = await connect(await serve(fault="fewer"), max_top_k=64)

    assert capped.info().capabilities.max_top_k == 20
    assert silent.info().capabilities.max_top_k == 3
    assert capped.info().capabilities.max_context == MAX_MODEL_LEN - 1


async def test_a_server_without_prompt_logprobs_is_refused_with_every_reason(serve, connect):
    server = await serve(owner="somebody")

    with pytest.raises(ServiceFailed, match=r"vllm: prompt_logprobs: is missing.*SampleOnly"):
        await connect(server)


@pytest.mark.parametrize(
    ("owner", "tokenize"), [("vllm", True), ("sglang", True), ("openai", False)]
)
async def test_a_server_with_another_tokenizer_is_refused(owner, tokenize, serve, connect):
    server = await serve(owner=owner, tokenize=tokenize, fault="tokenizer")

    with pytest.raises(ServiceFailed, match="another tokenizer"):
        await connect(server)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("missing token", "its rows are shifted"),
        ("shifted", "its rows are shifted|only the first may have none"),
        ("no null first", "has 6 rows for 7 tokens"),
        ("zeros", "add up to"),
        ("broken", "is not JSON"),
    ],
)
async def test_a_reply_that_cannot_be_right_is_no_answer(fault, words, serve, connect):
    server = await serve()
    expert = await connect(server)
    server.fault = fault

    reply = await asked(expert)

    assert isinstance(reply, ServiceFailed)
    with pytest.raises(ServiceFailed, match=words):
        raise reply


async def test_a_token_without_a_finite_log_prob_is_masked(serve, connect):
    server = await serve()
    expert = await connect(server)
    server.fault = "infinite"

    reply = await asked(expert)

    assert isinstance(reply, PrefixAnswer)
    assert reply.mask_P.all()
    assert reply.own_mask_P.tolist() == [True, True, True, False]
    assert RESPONSE[3] not in reply.ids_PK[3]


async def test_a_cap_that_fell_since_is_an_error_in_the_servers_words(serve, connect):
    server = await serve()
    expert = await connect(server)
    server.max_logprobs = 4

    reply = await asked(expert)

    assert isinstance(reply, ServiceFailed)
    assert "Requested prompt logprobs of 8" in reply.detail


async def test_a_rate_limit_is_waited_for_and_then_passed_on(serve, connect):
    server = await serve()
    expert = await connect(server)

    server.busy = 1
    waited = await asked(expert)
    server.busy = 1
    hurried = await asked(expert, timeout_ms=300)

    assert isinstance(waited, PrefixAnswer)
    assert isinstance(hurried, ServiceUnavailable)
    assert hurried.retry_after_s == 1.0
    assert hurried.detail == "Rate limit reached"


async def test_a_server_that_is_too_slow_costs_its_query_alone(serve, connect):
    server = await serve()
    expert = await connect(server)
    server.fault = "slow"

    reply = await asked(expert, timeout_ms=100)

    assert isinstance(reply, DeadlineExceeded)


async def test_a_server_that_is_not_there_is_named_after_the_wait(tokenizer_folder):
    expert = OpenAIServer(
        url="http://127.0.0.1:9", tokenizer=str(tokenizer_folder), start_timeout_s=0.5
    )

    with pytest.raises(DeadlineExceeded, match=r"did not answer within 0\.5 s"):
        await expert.start()
    await expert.stop()


async def test_feedback_is_read_where_told(serve, connect):
    server = await serve()
    expert = await connect(server, reads_feedback=True)
    item = FeedbackItem(id="fb", kind="execution", text="no", source="executor", version="1")
    prompt = Prompt(messages=(Message(role="user", content="Hi"),))

    reply = await asked(expert, prompt=prompt, feedback=(item,))

    assert isinstance(reply, PrefixAnswer)
    assert reply.used_feedback == ("fb",)
    sent = bytes(i for i in server.asked[-1][1]["prompt"] if i < 256).decode(errors="replace")
    assert "no" in sent


def test_wrong_options_are_named(tokenizer_folder):
    with pytest.raises(ValueError, match="dialect: 'tgi'"):
        OpenAIServer(url="http://x", tokenizer=str(tokenizer_folder), dialect="tgi")
    with pytest.raises(ValueError, match="url: 'x'"):
        OpenAIServer(url="x", tokenizer=str(tokenizer_folder))
