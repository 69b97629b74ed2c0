"""Answers of other people's servers: words for an end, texts elsewhere, stand-ins, silent caps."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from preceptor_clients.contract.arrays import LEAST_LOGPROB
from preceptor_clients.contract.checks import check_answer
from preceptor_clients.contract.errors import AnswerRefused, PreceptorError, ServiceFailed
from preceptor_clients.contract.schemas import (
    Capabilities,
    Message,
    PrefixAnswer,
    PrefixQuery,
    Prompt,
)
from preceptor_clients.sdk.answers import Distributions, build_answer
from preceptor_services.experts.remote.drawing.replies import continuation
from preceptor_services.experts.remote.drawing.sample_only import SampleOnly
from preceptor_services.experts.remote.scoring.dialects import EchoedPrompt, SglangInput, VllmPrompt
from preceptor_services.experts.remote.scoring.discovery import discover
from preceptor_services.experts.remote.scoring.options import ScoringOptions
from preceptor_services.experts.remote.scoring.rows import Row, distributions
from preceptor_services.experts.remote.student_tokenizer import StudentTokenizer
from preceptor_services.kit.upstream import Upstream
from preceptor_trainer.student.architecture import make_tokenizer

STAND_INS = (-9999.0, -1e4, -1e9, -3.4028234663852886e38, -math.inf)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("letters")
    make_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def letters(folder: Path) -> StudentTokenizer:
    return StudentTokenizer(folder)


@asynccontextmanager
async def served(path: str, reply: Callable[[dict[str, Any]], Any]) -> AsyncIterator[str]:
    """A server on loopback that has one model and answers `path`; yields its address."""

    async def answer(request: Request) -> Response:
        return JSONResponse(reply(await request.json()))

    async def models(request: Request) -> Response:
        return JSONResponse({"data": [{"id": "m"}]})

    routes = [Route(path, answer, methods=["POST"]), Route("/v1/models", models)]
    config = uvicorn.Config(
        Starlette(routes=routes), port=0, log_level="error", ws="none", lifespan="off"
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


# ---------------------------------------------------------------- ends, cuts, texts elsewhere


async def drawn(folder: Path, choices: list[Any], **more: Any) -> PrefixAnswer | PreceptorError:
    """What a sampling expert makes of these choices, at the first position of a response."""

    def reply(body: dict[str, Any]) -> Any:
        return {"choices": choices} | more

    async with served("/v1/chat/completions", reply) as url:
        expert = SampleOnly(url=url, tokenizer=str(folder), draws=len(choices))
        await expert.start()
        query = PrefixQuery(
            prompt=Prompt(messages=(Message(role="user", content="Where?"),)),
            response_ids=np.array([97], np.int32),
            vocab_fingerprint=expert.info().capabilities.vocab_fingerprint or "",
        )
        [found] = await expert.logprobs([query], [])
        await expert.stop()
    if isinstance(found, PrefixAnswer):
        check_answer(query, found, expert.info().capabilities)
    return found


def chances(answer: PrefixAnswer | PreceptorError) -> dict[int, float]:
    assert isinstance(answer, PrefixAnswer), answer
    n = answer.num_entries_P[0]
    probabilities = np.exp(answer.logprobs_PK[0, :n]).tolist()
    return dict(zip(answer.ids_PK[0, :n].tolist(), probabilities, strict=True))


def said(text: Any, reason: Any, **fields: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text} | fields
    return {"index": 0, "message": message, "finish_reason": reason}


ENDS = ("stop", "eos", "eos_token", "end_turn", "STOP", "FINISH_REASON_STOP", "COMPLETE")
CUTS = ("length", "max_tokens", "MAX_TOKENS", "model_length", "max_new_tokens", "LENGTH")


@pytest.mark.parametrize("word", ENDS)
async def test_every_word_for_an_end_is_an_end(
    folder: Path, letters: StudentTokenizer, word: str
) -> None:
    answer = await drawn(folder, [said("", word), said(" sat on", "length")])

    assert chances(answer) == pytest.approx({letters.end_id: 0.5, ord(" "): 0.5}, abs=1e-3)


@pytest.mark.parametrize("word", CUTS)
async def test_every_word_for_a_cut_is_a_cut(folder: Path, word: str) -> None:
    answer = await drawn(folder, [said("", word), said(" sat on", word)])

    assert chances(answer) == pytest.approx({ord(" "): 1.0}, abs=1e-3)


@pytest.mark.parametrize("word", ["sunset", "", None, 7])
async def test_an_unknown_word_is_refused_by_name(folder: Path, word: Any) -> None:
    answer = await drawn(folder, [said(" sat", word)])

    assert isinstance(answer, ServiceFailed)
    assert f"finish_reason: unknown value {word!r}" in answer.detail


ELSEWHERE: tuple[tuple[str, dict[str, Any]], ...] = (
    ("reasoning_content", said(None, "stop", reasoning_content="The cat sat.")),
    ("reasoning_content", said("", "stop", reasoning_content="The cat sat.")),
    ("reasoning_content", said(" sat on", "stop", reasoning_content="Where did it sit?")),
    ("reasoning", said(None, "stop", reasoning="The cat sat.")),
    ("reasoning_details", said("", "stop", reasoning_details=[{"text": "Hm."}])),
    ("refusal", said(None, "stop", refusal="I cannot say.")),
    ("tool_calls", said(None, "tool_calls", tool_calls=[{"function": {"name": "look"}}])),
    ("tool_calls", said(None, "stop", tool_calls=[{"function": {"name": "look"}}])),
    ("content_filter", said("", "content_filter")),
    ("thinking", said([{"type": "thinking", "thinking": "Hm."}], "stop")),
)


@pytest.mark.parametrize(("where", "choice"), ELSEWHERE)
async def test_a_text_that_stands_elsewhere_is_no_draw(
    folder: Path, where: str, choice: dict[str, Any]
) -> None:
    alone = await drawn(folder, [choice])
    beside = await drawn(folder, [choice, said(" sat on", "length")])

    assert isinstance(alone, ServiceFailed)
    assert where in alone.detail
    assert chances(beside) == pytest.approx({ord(" "): 1.0}, abs=1e-3)
    assert isinstance(beside, PrefixAnswer)
    assert where in beside.truncated[0]


async def test_reasoning_that_is_only_counted_makes_no_draw(folder: Path) -> None:
    usage = {"completion_tokens_details": {"reasoning_tokens": 40}}

    answer = await drawn(folder, [said(" sat on", "stop")], usage=usage)

    assert isinstance(answer, ServiceFailed)
    assert "reasoning" in answer.detail


async def test_null_where_the_model_ended_at_once_and_texts_in_parts_are_read(
    folder: Path, letters: StudentTokenizer
) -> None:
    parts = [{"type": "text", "text": " sa"}, {"type": "text", "text": "t."}]

    answer = await drawn(folder, [said(None, "stop", reasoning=None), said(parts, "stop")])

    assert chances(answer) == pytest.approx({letters.end_id: 0.5, ord(" "): 0.5}, abs=1e-3)


def test_a_completion_has_its_text_beside_the_message() -> None:
    assert continuation({"text": "", "finish_reason": "eos"}).ended
    assert continuation({"text": " on", "finish_reason": "limit"}).text == " on"
    with pytest.raises(ServiceFailed, match="no text"):
        continuation({"finish_reason": "length"})


# ---------------------------------------------------------------- stand-ins for minus infinity

IDS = [98, 97, 99]
"""What was sent; rows are about 97 and 99."""


def vllm_rows(letters: StudentTokenizer, low: float) -> list[Row]:
    first = {"97": {"logprob": -0.2, "rank": 1}, "98": {"logprob": -1.8, "rank": 2}}
    second = {
        "97": {"logprob": -0.1, "rank": 1},
        "98": {"logprob": -2.4, "rank": 2},
        "99": {"logprob": low, "rank": 3},
    }
    reply = {"choices": [{"prompt_logprobs": [None, first, second]}]}
    return VllmPrompt(letters).rows(reply, IDS, 1, 3)


def sglang_rows(letters: StudentTokenizer, low: float) -> list[Row]:
    own = [[None, 98, None], [-0.2, 97, None], [low, 99, None]]
    top = [
        None,
        [[-0.2, 97, None], [-1.8, 98, None]],
        [[-0.1, 97, None], [-2.4, 98, None], [low, 99, None]],
    ]
    reply = {"meta_info": {"input_token_logprobs": own, "input_top_logprobs": top}}
    return SglangInput(letters).rows(reply, IDS, 1, 3)


def echoed_rows(letters: StudentTokenizer, low: float) -> list[Row]:
    logprobs = {
        "tokens": ["b", "a", "c"],
        "token_logprobs": [None, -0.2, low],
        "top_logprobs": [None, {"a": -0.2, "b": -1.8}, {"a": -0.1, "b": -2.4, "c": low}],
    }
    return EchoedPrompt(letters).rows({"choices": [{"logprobs": logprobs}]}, IDS, 1, 3)


@pytest.mark.parametrize("low", STAND_INS)
@pytest.mark.parametrize("rows_of", [vllm_rows, sglang_rows, echoed_rows])
def test_a_stand_in_is_left_out_and_the_rest_unharmed(
    letters: StudentTokenizer,
    rows_of: Callable[[StudentTokenizer, float], list[Row]],
    low: float,
) -> None:
    rows = rows_of(letters, low)

    arrays, mask_P = distributions(rows, np.array([0, 1]), 3)

    assert rows[1].own is None
    assert rows[1].entries == ((97, -0.1), (98, -2.4))
    assert rows[0] == Row(-0.2, ((97, -0.2), (98, -1.8)), rows[0].num_best)
    assert mask_P.all()
    query = asked(IDS[1:])
    answer = build_answer(query, arrays, expert="e", expert_version="1", mask_P=mask_P, exact=True)
    check_answer(query, answer, Capabilities())
    assert answer.own_mask_P.tolist() == [True, False]
    assert answer.num_entries_P.tolist() == [2, 2]


def test_where_the_own_log_prob_is_null_the_best_may_be_missing(letters: StudentTokenizer) -> None:
    [_, row] = vllm_rows(letters, math.nan)

    assert row.own is None
    assert row.entries == ()


def asked(response_ids: list[int], **fields: Any) -> PrefixQuery:
    return PrefixQuery(
        prompt=Prompt(ids=np.array([1], np.int32)),
        response_ids=np.array(response_ids, np.int32),
        vocab_fingerprint="ab" * 32,
        **fields,
    )


def given(low: float, *, exact: bool) -> tuple[PrefixQuery, PrefixAnswer]:
    """An answer of our SDK, whose second row has `low` for an entry, its own and a candidate."""
    query = asked([97, 99], candidate_ids=np.array([[98], [99]], np.int32))
    arrays = Distributions(
        ids_PK=np.array([[97, 98], [97, 99]]),
        logprobs_PK=np.array([[-0.2, -1.8], [-0.1, low]]),
        own_logprobs_P=np.array([-0.2, low]),
        candidate_logprobs_PC=np.array([[-1.8], [low]]),
    )
    with np.errstate(over="ignore"):
        answer = build_answer(query, arrays, expert="e", expert_version="1", exact=exact)
    return query, answer


@pytest.mark.parametrize("low", STAND_INS)
@pytest.mark.parametrize("exact", [True, False])
def test_our_own_experts_leave_stand_ins_out(low: float, exact: bool) -> None:
    query, answer = given(low, exact=exact)

    check_answer(query, answer, Capabilities(candidates=True))
    assert answer.num_entries_P.tolist() == [2, 1]
    assert answer.own_mask_P.tolist() == [True, False]
    assert answer.candidate_mask_PC is not None
    assert answer.candidate_mask_PC.tolist() == [[True], [False]]
    assert answer.tail_P[1] == pytest.approx(1 - math.exp(-0.1), abs=1e-3)


LOW_FIELDS = ("logprobs_PK", "own_logprobs_P", "candidate_logprobs_PC")


@pytest.mark.parametrize("field", LOW_FIELDS)
@pytest.mark.parametrize("low", [LEAST_LOGPROB, -9999.0, -4e8, -3.4028234663852886e38])
def test_the_door_refuses_a_number_that_is_no_log_prob(field: str, low: float) -> None:
    query, answer = given(-30.0, exact=True)
    check_answer(query, answer, Capabilities(candidates=True))
    array = getattr(answer, field).copy()
    array[1, ...] = np.where(array[1] == -30.0, low, array[1])

    with pytest.raises(AnswerRefused, match="not above -1000") as refused:
        check_answer(query, answer.model_copy(update={field: array}), Capabilities(candidates=True))
    assert field in str(refused.value)


@pytest.mark.parametrize(("over", "refused"), [(5e-6, False), (2e-5, True)])
def test_the_door_and_the_page_agree_on_the_mass(over: float, refused: bool) -> None:
    query = asked([97])
    arrays = Distributions(
        ids_PK=np.array([[97, 98]]), logprobs_PK=np.log([[0.75, 0.25]]), own_logprobs_P=None
    )
    answer = build_answer(query, arrays, expert="e", expert_version="1", exact=True)
    heavier = answer.model_copy(update={"logprobs_PK": answer.logprobs_PK + np.float32(over)})

    if refused:
        with pytest.raises(AnswerRefused, match="mass"):
            check_answer(query, heavier, Capabilities())
    else:
        check_answer(query, heavier, Capabilities())
    page = next((Path(__file__).parents[2] / "docs").rglob("wire-format.md")).read_text()
    assert "1e-5" in page
    assert f"{LEAST_LOGPROB:g}" in page


# ---------------------------------------------------------------- silent caps


def capped_vllm(cap: int, *, ranks: bool) -> Callable[[dict[str, Any]], Any]:
    """Gives at most `cap` best entries, whatever is asked, and the token that came."""

    def reply(body: dict[str, Any]) -> Any:
        rows: list[Any] = [None]
        for t, token in enumerate(body["prompt"][1:], start=1):
            scores = np.random.default_rng(t).normal(0.0, 2.0, 261)
            logprobs = scores - np.logaddexp.reduce(scores)
            order = np.argsort(-logprobs).tolist()
            shown = dict.fromkeys([*order[: min(cap, body["prompt_logprobs"])], token])
            rows.append(
                {
                    str(i): {
                        "logprob": float(logprobs[i]),
                        "rank": order.index(i) + 1 if ranks else None,
                        "decoded_token": None,
                    }
                    for i in shown
                }
            )
        return {"choices": [{"prompt_logprobs": rows}]}

    return reply


async def found_on(
    folder: Path, reply: Callable[[dict[str, Any]], Any], ask: Callable[..., Awaitable[Any]]
) -> Any:
    letters = StudentTokenizer(folder)
    async with served("/v1/completions", reply) as url:
        upstream = Upstream(url, None, max_concurrency=4, timeout_s=10.0)
        wanted = ScoringOptions(
            name="e", url=url, tokenizer=str(folder), max_top_k=64, dialect="vllm"
        )
        found = await discover(upstream, wanted, letters)
        try:
            return await ask(upstream, found)
        finally:
            await upstream.aclose()


@pytest.mark.parametrize("ranks", [True, False])
@pytest.mark.parametrize("cap", [1, 5, 20])
async def test_what_is_declared_is_the_servers_own_best(
    folder: Path, cap: int, ranks: bool
) -> None:
    async def declared(upstream: Upstream, found: Any) -> int:
        return found.max_top_k

    assert await found_on(folder, capped_vllm(cap, ranks=ranks), declared) == cap


async def test_the_token_that_came_is_never_posed_as_a_best_entry(folder: Path) -> None:
    async def rows(upstream: Upstream, found: Any) -> list[Row]:
        ids = [98, 97, 99, 100, 101]
        # More than the server gives: as if its cap had fallen since.
        reply = await upstream.post(found.dialect.path, found.dialect.request("m", ids, 1, 8))
        return found.dialect.rows(reply, ids, 1, 8)

    found = await found_on(folder, capped_vllm(5, ranks=True), rows)

    assert [len(row.entries) for row in found] == [5] * 4
    assert all(row.own is not None for row in found)


def test_a_list_that_is_apart_counts_the_token_that_came(letters: StudentTokenizer) -> None:
    [first, second] = sglang_rows(letters, -6.0)

    assert (first.num_best, second.num_best) == (2, 3)
