"""Claims about teachers with another tokenizer."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from preceptor_clients.conformance.subject import CheckOptions
from preceptor_clients.conformance.suite import check_expert
from preceptor_clients.contract.checks import check_answer
from preceptor_clients.contract.errors import ContextTooLong, Invalid, PreceptorError, ServiceFailed
from preceptor_clients.contract.schemas import Message, PrefixAnswer, PrefixQuery, Prompt
from preceptor_clients.sdk.service import service_app
from preceptor_services.experts.remote.aligned.aligning import Aligning
from preceptor_services.experts.remote.aligned.alignment import Pieces, readings
from preceptor_services.experts.remote.scoring.openai_http import OpenAIServer

from ..foreign import END, FakeServer

MESSAGES = (Message(role="user", content="Say."),)
RESPONSE = list(b"hello the w")


@pytest.fixture
async def teacher(serve, word_tokenizer) -> FakeServer:
    return await serve(tokenizer=word_tokenizer, max_model_len=400, max_logprobs=64)


@pytest.fixture
async def connect(
    tokenizer_folder: Path, word_tokenizer_folder: Path
) -> AsyncIterator[Callable[..., Any]]:
    made: list[Any] = []

    async def start(server: FakeServer, kind: type[Any] = Aligning, **options: Any) -> Any:
        defaults = {"timeout_s": 10.0, "start_timeout_s": 10.0, "tokenizer": str(tokenizer_folder)}
        if kind is Aligning:
            defaults |= {"teacher_tokenizer": str(word_tokenizer_folder), "min_told": 0.05}
        expert = kind(url=server.url, **(defaults | options))
        made.append(expert)
        await expert.start()
        return expert

    yield start
    for expert in made:
        await expert.stop()


def test_a_teacher_without_a_chat_template_is_named_before_it_is_asked(
    tokenizer_folder: Path, word_tokenizer_folder: Path, tmp_path: Path
) -> None:
    base = shutil.copytree(word_tokenizer_folder, tmp_path / "base")
    (base / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((base / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (base / "tokenizer_config.json").write_text(json.dumps(settings))

    with pytest.raises(ValueError, match=r"teacher_tokenizer: .*/base' has no chat template"):
        Aligning(url="http://h", tokenizer=str(tokenizer_folder), teacher_tokenizer=str(base))


async def asked(expert: Any, **fields: Any) -> PrefixAnswer | PreceptorError:
    values: dict[str, Any] = {
        "prompt": Prompt(messages=MESSAGES),
        "response_ids": RESPONSE,
        "vocab_fingerprint": expert.info().capabilities.vocab_fingerprint,
        "top_k": 8,
    }
    query = PrefixQuery(**(values | fields))
    [reply] = await expert.logprobs([query], [])
    if isinstance(reply, PrefixAnswer):
        check_answer(query, reply, expert.info().capabilities)
    return reply


async def test_it_passes_the_conformance_suite(teacher, connect):
    expert = await connect(teacher)

    report = await check_expert(
        "http://expert", CheckOptions(tolerance=1e-3), httpx.ASGITransport(service_app(expert))
    )

    assert report.ok, report.as_text()
    passed = {v.check for v in report.verdicts if v.state == "passed"}
    assert {"door", "index", "context", "normalisation", "batch", "positions"} <= passed


async def test_a_row_adds_up_the_teachers_entries_that_begin_with_the_same_token(
    teacher, connect, word_tokenizer
):
    expert = await connect(teacher)
    context = word_tokenizer.encode_chat([{"role": "user", "content": "Say."}])

    reply = await asked(expert)

    assert isinstance(reply, PrefixAnswer)
    assert reply.mask_P.all()
    for t in range(len(RESPONSE)):
        before = word_tokenizer.encode(bytes(RESPONSE[:t]).decode())
        row = teacher.table([*context, *before, 0])[-1]
        mass: dict[int, float] = defaultdict(float)
        for i in np.argsort(-row)[:64]:
            piece = word_tokenizer.decode([int(i)])
            if i == word_tokenizer.end_id:
                mass[END] += np.exp(row[i])
            elif i not in word_tokenizer.special_ids and "\ufffd" not in piece:
                mass[piece.encode()[0]] += np.exp(row[i])
        best = sorted(mass.values(), reverse=True)[:8]
        np.testing.assert_allclose(np.exp(reply.logprobs_PK[t, : len(best)]), best, rtol=1e-4)
        if RESPONSE[t] in mass:
            assert np.exp(reply.own_logprobs_P[t]) == pytest.approx(mass[RESPONSE[t]], rel=1e-4)
        else:
            assert not reply.own_mask_P[t]


async def test_between_equal_tokenizers_it_is_the_plain_expert(serve, connect, tokenizer_folder):
    server = await serve(max_model_len=400, max_logprobs=261)
    same = {"teacher_tokenizer": str(tokenizer_folder), "max_top_k": 261}
    aligned = await asked(await connect(server, **same))
    plain = await asked(await connect(server, OpenAIServer, max_top_k=261))

    assert isinstance(aligned, PrefixAnswer)
    assert isinstance(plain, PrefixAnswer)
    # Bytes that are no character of their own have no text, so the plain expert has more entries.
    shared = [
        {int(i): float(x) for i, x in zip(a.ids_PK[t], a.logprobs_PK[t], strict=True) if i < 128}
        for t in range(len(RESPONSE))
        for a in (aligned, plain)
    ]
    for one, other in zip(shared[::2], shared[1::2], strict=True):
        assert {i: one[i] for i in other} == pytest.approx(other, abs=1e-5)


async def test_what_cannot_be_aligned_is_masked_and_counted(teacher, connect):
    expert = await connect(teacher)

    reply = await asked(expert, response_ids=[104, 0xC3, 0xA9, END, 98])

    assert isinstance(reply, PrefixAnswer)
    assert reply.mask_P.tolist() == [True, True, False, True, False]
    assert reply.truncated == ("2 of 5 positions could not be aligned",)


async def test_a_row_that_tells_too_little_is_masked(teacher, connect):
    reply = await asked(await connect(teacher, min_told=1.0))

    assert isinstance(reply, PrefixAnswer)
    assert not reply.mask_P.any()
    assert reply.truncated == ("11 of 11 positions could not be aligned",)


async def test_requests_beyond_the_budget_are_drawn_with_their_chances(teacher, connect):
    whole = await asked(await connect(teacher))
    expert = await connect(teacher, max_requests=2)
    before = len(teacher.asked)

    reply = await asked(expert)

    assert isinstance(whole, PrefixAnswer)
    assert isinstance(reply, PrefixAnswer)
    assert len(teacher.asked) - before == 2
    assert whole.inclusion_P is None
    assert reply.inclusion_P is not None
    assert set(np.flatnonzero(reply.inclusion_P < 1)) >= set(np.flatnonzero(~reply.mask_P))
    assert 0 < (~reply.mask_P).sum() < len(RESPONSE)
    rows = np.flatnonzero(reply.mask_P)
    np.testing.assert_array_equal(reply.ids_PK[rows], whole.ids_PK[rows])


async def test_a_context_that_is_too_long_for_the_teacher_is_refused(
    serve, connect, word_tokenizer
):
    server = await serve(tokenizer=word_tokenizer, max_model_len=60)
    expert = await connect(server)

    assert isinstance(await asked(expert, response_ids=[120, 32] * 40), ContextTooLong)
    assert isinstance(await asked(expert, prompt=Prompt(ids=np.array([72]))), Invalid)


async def test_another_tokenizer_than_the_teachers_is_refused(serve, connect):
    with pytest.raises(ServiceFailed, match="another tokenizer"):
        await connect(await serve())


def test_spans_that_end_together_share_a_request(student_tokenizer, word_tokenizer):
    text = "hello the"
    found = readings(student_tokenizer, word_tokenizer, list(text.encode()), range(len(text) + 1))

    assert tuple(word_tokenizer.encode(text)) in [reading.ids for reading in found]
    assert len(found) == len({r.ids for r in found}) < len(text)
    assert max(found, key=lambda reading: len(reading.rows)) == found[0]
    assert sorted(row for r in found for row in r.rows) == list(range(len(text) + 1))
    for reading in found:
        for row, n in reading.rows.items():
            assert list(reading.ids[:n]) == word_tokenizer.encode(text[:row])


def test_pieces_begin_with_a_token_of_the_student(student_tokenizer, word_tokenizer):
    pieces = Pieces(student_tokenizer, word_tokenizer)

    assert pieces.student_id(word_tokenizer.encode("hello")[0]) == ord("h")
    assert pieces.student_id(word_tokenizer.encode(" world")[0]) == ord(" ")
    assert pieces.student_id(word_tokenizer.end_id) == END
    assert pieces.student_id(0) is None
    assert pieces.student_id(word_tokenizer.encode("é")[0]) is None
