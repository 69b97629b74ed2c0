"""Claims about a larger model behind the contract."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from preceptor_clients.conformance.subject import CheckOptions
from preceptor_clients.conformance.suite import check_expert
from preceptor_clients.contract.errors import TooLarge
from preceptor_clients.contract.schemas import PrefixAnswer, PrefixQuery
from preceptor_clients.http.service import ServiceClient
from preceptor_clients.sdk.service import service_app
from preceptor_services.experts.larger_model import LargerModel
from preceptor_services.experts.self_teacher import SelfTeacher
from preceptor_services.registry.inspection import Inspector

from ...models.tiny import tiny_model
from .conftest import MAX_POSITIONS, TinyPolicy


@pytest.fixture
def make_larger(policy: TinyPolicy) -> Iterator[Callable[..., LargerModel]]:
    made: list[LargerModel] = []

    def make(**options: Any) -> LargerModel:
        defaults = {"model": str(policy.folder), "threads": 1, "dtype": "float32"}
        made.append(LargerModel(**(defaults | options)))
        return made[-1]

    yield make
    for expert in made:
        expert._torch.shutdown()


async def test_it_passes_the_conformance_suite(
    make_larger: Callable[..., LargerModel], policy: TinyPolicy
) -> None:
    transport = httpx.ASGITransport(service_app(make_larger()))

    report = await check_expert(
        "http://expert", CheckOptions(vocab_fingerprint=policy.vocab_fingerprint), transport
    )

    assert report.ok, report.as_text()


async def test_it_says_the_same_bits_as_a_self_teacher_frozen_on_the_same_model(
    make_larger: Callable[..., LargerModel],
    make_teacher: Callable[..., SelfTeacher],
    make_query: Callable[..., PrefixQuery],
) -> None:
    queries = [make_query(text=None) for _ in range(3)]
    frozen = make_teacher(ema_rate=0.0, needs_feedback=False)

    ours = [answered(a) for a in await make_larger().logprobs(queries, [])]
    theirs = [answered(a) for a in await frozen.logprobs(queries, [])]

    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one.logprobs_PK, other.logprobs_PK)
        np.testing.assert_array_equal(one.ids_PK, other.ids_PK)
        np.testing.assert_array_equal(one.own_logprobs_P, other.own_logprobs_P)


async def test_it_reads_the_plain_prompt_and_feedback_only_where_told(
    make_larger: Callable[..., LargerModel],
    make_query: Callable[..., PrefixQuery],
    policy: TinyPolicy,
) -> None:
    queries = [make_query(text=None), make_query(text="[3,1]->[1,3] not [3,1]")]

    plain = [answered(a) for a in await make_larger().logprobs(queries, [])]
    told = [answered(a) for a in await make_larger(reads_feedback=True).logprobs(queries, [])]

    ids = torch.tensor([[*policy_prompt(make_larger()), *queries[0].response_ids.tolist()]])
    with torch.no_grad():
        logprobs = policy.model()(input_ids=ids).logits[0].log_softmax(-1)
    rows = logprobs[-len(queries[0].response_ids) - 1 : -1]
    own = rows.gather(1, torch.tensor(queries[0].response_ids)[:, None].long())[:, 0].numpy()
    np.testing.assert_allclose(plain[0].own_logprobs_P, own, atol=1e-5)
    np.testing.assert_allclose(plain[1].own_logprobs_P, own, atol=1e-5)
    np.testing.assert_allclose(told[0].own_logprobs_P, own, atol=1e-5)
    assert plain[1].used_feedback == ()
    assert told[1].used_feedback == ("fb-1",)
    assert np.abs(told[1].own_logprobs_P - own).max() > 1e-3


def answered(reply: Any) -> PrefixAnswer:
    assert isinstance(reply, PrefixAnswer)
    return reply


def policy_prompt(expert: LargerModel) -> list[int]:
    return expert._model.encode([{"role": "user", "content": "[3,1]->[1,3]"}])


async def test_a_prompt_that_does_not_fit_is_refused_and_its_batch_goes_on(
    make_larger: Callable[..., LargerModel], make_query: Callable[..., PrefixQuery]
) -> None:
    long = make_query("y" * MAX_POSITIONS)

    refused, reply = await make_larger().logprobs([long, make_query()], [])

    assert not isinstance(refused, PrefixAnswer)
    assert isinstance(reply, PrefixAnswer)


async def test_answers_that_cannot_be_held_are_refused_before_they_are_computed(
    make_larger: Callable[..., LargerModel], make_query: Callable[..., PrefixQuery]
) -> None:
    expert = make_larger(memory_mb=4)
    num_queries = 1 + expert._admission.capacity // (261 * 10)

    with pytest.raises(TooLarge, match="entries are requested"):
        await expert.logprobs([make_query(top_k=261)] * num_queries, [])


async def test_64_requests_at_once_wait_in_line_and_are_all_answered(
    make_larger: Callable[..., LargerModel], make_query: Callable[..., PrefixQuery]
) -> None:
    expert = make_larger(memory_mb=2)
    query = make_query("x" * 40, top_k=261)
    room = expert._admission.capacity // (41 * 261)

    requests = [asyncio.create_task(expert.logprobs([query], [])) for _ in range(64)]
    await asyncio.sleep(0)
    num_waiting = expert._admission.num_waiting
    replies = await asyncio.gather(*requests)

    assert num_waiting == 64 - room
    assert all(isinstance(reply, PrefixAnswer) for [reply] in replies)


def test_memory_that_does_not_hold_one_sequence_is_refused(
    make_larger: Callable[..., LargerModel],
) -> None:
    with pytest.raises(ValueError, match=r"memory_mb: 1 is enough for \d+ tokens"):
        make_larger(memory_mb=1)


async def test_a_teacher_with_a_padded_head_passes_the_registrys_self_test(
    tmp_path: Path, make_larger: Callable[..., LargerModel]
) -> None:
    padded = tiny_model("qwen3", tmp_path / "padded", num_padded=120)
    expert = make_larger(model=str(padded))
    client = ServiceClient("http://expert", transport=httpx.ASGITransport(service_app(expert)))

    tested = await Inspector(canary_every_s=60).inspect(
        "padded", client, expert.info(), self_test=True, known=None
    )

    assert tested
    capabilities = expert.info().capabilities
    assert capabilities.vocab_size is not None
    assert capabilities.head_size == capabilities.vocab_size + 120
