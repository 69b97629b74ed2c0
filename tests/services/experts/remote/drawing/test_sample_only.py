"""Claims about experts that only sample."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from preceptor_clients.conformance.subject import CheckOptions
from preceptor_clients.conformance.suite import check_expert
from preceptor_clients.contract.checks import check_answer
from preceptor_clients.contract.errors import (
    DeadlineExceeded,
    Invalid,
    PreceptorError,
    ServiceFailed,
)
from preceptor_clients.contract.schemas import (
    FeedbackItem,
    Message,
    PrefixAnswer,
    PrefixQuery,
    Prompt,
)
from preceptor_clients.sdk.service import service_app
from preceptor_services.experts.remote.drawing.retokenizing import Drawn, next_token, prefix_text
from preceptor_services.experts.remote.drawing.sample_only import SampleOnly

from ..foreign import END, FakeServer, text_logprobs

RESPONSE = list(b"abc\nd")


@pytest.fixture
async def connect(tokenizer_folder: Path) -> AsyncIterator[Callable[..., Any]]:
    made: list[SampleOnly] = []

    async def start(server: FakeServer, **options: Any) -> SampleOnly:
        options = {"timeout_s": 10.0, "start_timeout_s": 10.0} | options
        expert = SampleOnly(url=server.url, tokenizer=str(tokenizer_folder), **options)
        made.append(expert)
        await expert.start()
        return expert

    yield start
    for expert in made:
        await expert.stop()


async def asked(expert: SampleOnly, **fields: Any) -> PrefixAnswer | PreceptorError:
    values: dict[str, Any] = {
        "prompt": Prompt(messages=(Message(role="user", content="Write."),)),
        "response_ids": RESPONSE,
        "vocab_fingerprint": expert.info().capabilities.vocab_fingerprint,
    }
    query = PrefixQuery(**(values | fields))
    [reply] = await expert.logprobs([query], [])
    if isinstance(reply, PrefixAnswer):
        check_answer(query, reply, expert.info().capabilities)
    return reply


def calls(server: FakeServer) -> list[dict[str, Any]]:
    return [body for path, body in server.asked if path == "/v1/chat/completions"]


async def test_it_passes_the_conformance_suite(serve, connect):
    expert = await connect(await serve(), draws=4)

    report = await check_expert(
        "http://expert", CheckOptions(), httpx.ASGITransport(service_app(expert))
    )

    assert report.ok, report.as_text()
    passed = {v.check for v in report.verdicts if v.state == "passed"}
    assert {"door", "renderings", "vocabulary", "limits", "errors"} <= passed


async def test_draws_become_the_distribution_of_the_next_token(serve, connect):
    expert = await connect(await serve(), draws=400, draws_per_call=400)

    reply = await asked(expert)

    assert isinstance(reply, PrefixAnswer)
    assert reply.kind == "empirical"
    assert reply.num_draws == 400
    assert reply.mask_P.all()
    for t in range(len(RESPONSE)):
        n = reply.num_entries_P[t]
        ids, shares = reply.ids_PK[t, :n].tolist(), np.exp(reply.logprobs_PK[t, :n])
        found = dict(zip(ids, shares, strict=True))
        expected = np.exp(text_logprobs(RESPONSE[:t]))
        assert set(found) <= set(np.flatnonzero(expected).tolist())
        assert END in found
        for token, share in found.items():
            assert share == pytest.approx(expected[token], abs=0.1)


async def test_positions_are_as_many_as_the_calls_pay_for(serve, connect):
    server = await serve()
    expert = await connect(server, draws=6, draws_per_call=3, max_calls=4)

    reply = await asked(expert)

    assert isinstance(reply, PrefixAnswer)
    assert len(calls(server)) == 4
    assert reply.mask_P.sum() == 2
    np.testing.assert_allclose(reply.inclusion_P, 0.4)


async def test_a_retry_asks_about_the_same_positions_another_draw_or_expert_about_others(
    serve, connect
):
    server = await serve()
    expert = await connect(server, max_calls=1)
    other = await connect(server, max_calls=1, name="other")

    async def where(expert: SampleOnly, draw: int) -> list[bool]:
        reply = await asked(expert, draw=draw)
        assert isinstance(reply, PrefixAnswer)
        return reply.mask_P.tolist()

    first = [await where(expert, draw) for draw in range(6)]
    assert [await where(expert, draw) for draw in range(6)] == first
    assert len({tuple(row) for row in first}) > 1
    assert [await where(other, draw) for draw in range(6)] != first


async def test_positions_are_drawn_where_the_student_is_unsure_or_feedback_points(serve, connect):
    server = await serve()
    by_entropy = await connect(server, max_calls=1, choose="entropy")
    by_feedback = await connect(server, max_calls=1, choose="feedback")
    item = FeedbackItem(id="fb", kind="comment", text="see line 2", source="judge", version="1")

    unsure = await asked(by_entropy, entropy_P=np.array([0.0, 0.0, 2.0, 0.0, 0.0], np.float32))
    pointed = await asked(by_feedback, feedback=(item,))

    assert isinstance(unsure, PrefixAnswer)
    assert isinstance(pointed, PrefixAnswer)
    np.testing.assert_allclose(unsure.inclusion_P, np.array([1, 1, 50, 1, 1]) / 54, rtol=1e-5)
    np.testing.assert_allclose(pointed.inclusion_P, np.array([1, 1, 1, 1, 8]) / 12, rtol=1e-5)
    assert pointed.used_feedback == ("fb",)


async def test_tokens_that_the_student_did_not_write_are_not_paid_for(serve, connect):
    server = await serve()
    expert = await connect(server)

    reply = await asked(expert, owned=np.array([True, False, False, True, False]))

    assert isinstance(reply, PrefixAnswer)
    assert reply.mask_P.tolist() == [True, False, False, True, False]
    assert len(calls(server)) == 2


async def test_states_that_are_no_text_are_masked(serve, connect):
    server = await serve()
    expert = await connect(server)

    reply = await asked(expert, response_ids=[97, 0xC3, 0xA9, END, 98])

    assert isinstance(reply, PrefixAnswer)
    assert reply.mask_P.tolist() == [True, True, False, True, False]


async def test_the_turn_that_has_begun_is_continued(serve, connect):
    server = await serve()
    expert = await connect(server, message_fields={"prefix": True})

    await asked(expert, positions=((2, 3),))

    [body] = calls(server)
    assert body["messages"][-1] == {"role": "assistant", "content": "ab", "prefix": True}
    assert body["continue_final_message"]
    assert body["temperature"] == 1.0


async def test_spent_calls_are_the_end(serve, connect):
    server = await serve()
    expert = await connect(server, max_calls_in_all=6)

    first = await asked(expert)
    second = await asked(expert)
    third = await asked(expert)

    assert isinstance(first, PrefixAnswer)
    assert isinstance(second, PrefixAnswer)
    assert second.mask_P.sum() == 1
    assert isinstance(third, ServiceFailed)
    assert "6 calls in all are spent" in third.detail
    assert len(calls(server)) == 6


async def test_an_answer_names_what_its_calls_cost(serve, connect):
    expert = await connect(await serve(), draws=6, draws_per_call=3, cost_per_call=0.25)

    # No call is made where the state is no text, as inside a character.
    reply = await asked(expert, response_ids=[97, 0xC3, 0xA9])

    assert isinstance(reply, PrefixAnswer)
    assert reply.mask_P.tolist() == [True, True, False]
    assert reply.cost == pytest.approx(2 * 2 * 0.25)


async def test_who_asks_again_after_a_failure_pays_for_the_rest_alone(serve, connect):
    server = await serve()
    expert = await connect(server, max_calls=4, max_calls_in_all=6)
    query = PrefixQuery(
        prompt=Prompt(messages=(Message(role="user", content="Write."),)),
        response_ids=RESPONSE,
        vocab_fingerprint=expert.info().capabilities.vocab_fingerprint,
    )

    server.fails_at = 3
    [failed] = await expert.logprobs([query], ["key"])
    [reply] = await expert.logprobs([query], ["key"])

    assert isinstance(failed, ServiceFailed)
    assert isinstance(reply, PrefixAnswer)
    assert len(calls(server)) == 4 + 1
    assert reply.mask_P.sum() == 4
    np.testing.assert_allclose(reply.inclusion_P, 0.8)


async def test_two_apis_under_one_name_draw_positions_apart_from_each_other(serve, connect):
    first = await connect(await serve(), max_calls=1)
    second = await connect(await serve(), max_calls=1)

    async def where(expert: SampleOnly) -> list[list[bool]]:
        replies = [await asked(expert, draw=draw) for draw in range(6)]
        return [reply.mask_P.tolist() for reply in replies if isinstance(reply, PrefixAnswer)]

    assert await where(first) != await where(second)


async def test_another_model_is_another_version(serve, connect):
    server = await serve()
    before = await connect(server)

    server.served = "larger"
    after = await connect(server)

    assert before.info().version != after.info().version


async def test_what_the_api_cannot_do_is_named(serve, connect):
    server = await serve()
    expert = await connect(server)

    server.fault = "one choice"
    few = await asked(expert)
    server.fault = "slow"
    slow = await asked(expert, timeout_ms=100)
    ids = await asked(expert, prompt=Prompt(ids=np.array([72, 105])))

    assert isinstance(few, ServiceFailed)
    assert "draws_per_call = 1" in few.detail
    assert isinstance(slow, DeadlineExceeded)
    assert isinstance(ids, Invalid)


def test_wrong_options_are_named(tokenizer_folder):
    for options, words in (
        ({"choose": "best"}, "choose: 'best'"),
        ({"draws": 9, "max_calls": 1}, "max_calls: 1 is below the 2 calls of one position"),
        ({"draw_tokens": 1}, "draw_tokens: 1 is below 2"),
        ({"min_kept": 0.0}, r"min_kept: 0\.0"),
        ({"api": "words"}, "api: 'words'"),
        ({"cost_per_call": -1.0}, r"cost_per_call: -1\.0"),
    ):
        with pytest.raises(ValueError, match=words):
            SampleOnly(url="http://x", tokenizer=str(tokenizer_folder), **options)


def test_a_draw_that_changes_the_prefix_is_none(word_tokenizer):
    he = word_tokenizer.encode("hello wor")
    assert len(word_tokenizer.encode("hello")) == 1
    prefix_ids = word_tokenizer.encode("hel")

    def drawn(prefix_ids: list[int], text: str, *, ended: bool = False) -> int | None:
        prefix = prefix_text(word_tokenizer, prefix_ids)
        assert prefix is not None
        return next_token(word_tokenizer, prefix, prefix_ids, Drawn(text, ended))

    assert drawn(prefix_ids, "lo wor") is None
    assert drawn(he[:1], " world of") == word_tokenizer.encode(" world")[0]
    assert drawn(he[:1], " world") is None
    assert drawn(he[:1], " world", ended=True) == word_tokenizer.encode(" world")[0]
    assert drawn(he[:1], "", ended=True) == word_tokenizer.end_id
    assert drawn(he[:1], "") is None
    assert drawn(he[:1], "\ufffdx y") is None


def test_ids_that_a_text_would_not_give_have_none(word_tokenizer):
    [end] = [word_tokenizer.end_id]
    apart = [i for letter in "hello" for i in word_tokenizer.encode(letter)]

    assert prefix_text(word_tokenizer, apart) is None
    assert prefix_text(word_tokenizer, [end]) is None
    assert prefix_text(word_tokenizer, []) == ""
