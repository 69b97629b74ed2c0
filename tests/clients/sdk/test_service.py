"""The SDK: a class becomes an ASGI app that speaks both renderings and never leaks an exception."""

import asyncio
import json
import subprocess
import sys
from typing import Any

import httpx
import numpy as np
import pytest

from preceptor_clients.contract import wire
from preceptor_clients.contract.checks import check_answer
from preceptor_clients.contract.errors import ContextTooLong, ProblemDetails, WeightsNotHere
from preceptor_clients.contract.schemas import (
    FeedbackCall,
    FeedbackQuery,
    FeedbackReply,
    LogprobsCall,
    LogprobsReply,
    Prompt,
    ServiceInfo,
    WeightManifest,
    WeightsOffer,
)
from preceptor_clients.contract.version import CONTRACT
from preceptor_clients.sdk.service import AnswerLater, service_app

RENDERINGS = pytest.mark.parametrize("media_type", [wire.JSON, wire.FRAME])


def browser(app: Any, **headers: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://service", headers=headers
    )


async def post(app: Any, body: Any, media_type: str = wire.JSON, accept: str | None = None, **kw):
    headers = {"content-type": media_type, "accept": accept or media_type}
    async with browser(app, **headers) as http:
        return await http.post("/v1/logprobs", content=wire.render(body, media_type), **kw)


def reply_of(response: httpx.Response) -> LogprobsReply:
    assert response.status_code == 200, response.text
    return wire.parse(LogprobsReply, response.content, response.headers["content-type"])


def problem_of(response: httpx.Response, status: int) -> ProblemDetails:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    return ProblemDetails.model_validate_json(response.content)


@RENDERINGS
async def test_answers_come_in_order_in_the_rendering_asked(media_type, expert, make_query):
    queries = (make_query([1, 2]), make_query([3, 4, 5]))

    response = await post(service_app(expert), LogprobsCall(queries=queries), media_type)

    assert response.headers["content-type"] == media_type
    for query, result in zip(queries, reply_of(response).results, strict=True):
        assert result.answer is not None
        check_answer(query, result.answer, expert.info().capabilities)


async def test_a_json_query_may_be_answered_by_a_frame(expert, make_query):
    call = LogprobsCall(queries=(make_query(),))

    response = await post(service_app(expert), call, accept=f"text/html, {wire.FRAME};q=0.5")

    assert response.headers["content-type"] == wire.FRAME


async def test_exact_logprobs_are_rounded_unless_asked_for(expert, make_query, make_distributions):
    expert.exact = True
    query = make_query()
    call = LogprobsCall(queries=(query,))
    exact = make_distributions(query).logprobs_PK.astype(np.float32)

    asked = reply_of(
        await post(service_app(expert), call, wire.FRAME, wire.FRAME + ";logprobs=f32")
    )
    default = reply_of(await post(service_app(expert), call, wire.FRAME))

    np.testing.assert_array_equal(asked.results[0].answer.logprobs_PK, exact)
    assert (default.results[0].answer.logprobs_PK != exact).any()
    check_answer(query, default.results[0].answer, expert.info().capabilities)


async def test_a_compressed_reply_is_smaller_and_says_the_same(expert, make_query):
    call = LogprobsCall(queries=(make_query(np.ones(200, np.int32)),))

    plain = await post(service_app(expert), call, wire.FRAME)
    packed = await post(service_app(expert), call, wire.FRAME, wire.FRAME + ";body=zstd")

    assert len(packed.content) < len(plain.content)
    np.testing.assert_array_equal(
        reply_of(packed).results[0].answer.ids_PK, reply_of(plain).results[0].answer.ids_PK
    )


async def test_errors_later_answers_and_answers_stand_side_by_side(expert, make_query, make_answer):
    query = make_query()
    expert.replies = [
        ContextTooLong("too long", field="response_ids"),
        AnswerLater(),
        make_answer(query),
    ]

    keys = tuple(c * 64 for c in "abc")
    response = await post(service_app(expert), LogprobsCall(queries=(query,) * 3, answer_keys=keys))

    failed, later, answered = reply_of(response).results
    assert failed.problem is not None
    assert (failed.problem.code, failed.problem.status) == ("context-too-long", 422)
    assert later.accepted
    assert later.answer is None
    assert answered.answer is not None
    assert expert.asked[0][1] == list(keys)


async def test_queries_that_the_capabilities_rule_out_do_not_reach_the_expert(expert, make_query):
    good, bad = make_query([1, 2]), make_query([99])

    response = await post(service_app(expert), LogprobsCall(queries=(bad, good)))

    refused, answered = reply_of(response).results
    assert refused.problem is not None
    assert refused.problem.errors[0].field == "response_ids"
    assert answered.answer is not None
    assert [len(q.response_ids) for q in expert.asked[0][0]] == [2]


async def test_an_error_of_the_whole_call_keeps_its_status(expert, make_query):
    expert.raises = WeightsNotHere("have p/l/1", retry_after_s=2)

    response = await post(service_app(expert), LogprobsCall(queries=(make_query(),)))

    assert problem_of(response, 425).code == "weights-not-here"
    assert response.headers["retry-after"] == "2"


async def test_an_unexpected_exception_is_logged_and_not_sent(expert, make_query, caplog):
    expert.raises = RuntimeError("secret path /models")

    response = await post(service_app(expert), LogprobsCall(queries=(make_query(),)))

    assert problem_of(response, 500).code == "error"
    assert "secret" not in response.text
    assert "secret path" in caplog.text


@pytest.mark.parametrize("replies", [[], [None]], ids=["too few", "nonsense"])
async def test_nonsense_from_the_service_is_a_500(expert, make_query, caplog, replies):
    expert.replies = replies

    response = await post(service_app(expert), LogprobsCall(queries=(make_query(),)))

    problem_of(response, 500)
    assert "failed" in caplog.text


BAD_BODIES = {
    "no json": (b"{", wire.JSON, 400, "body"),
    "nan": (b'{"queries": NaN}', wire.JSON, 400, "body"),
    "no frame": (b"PCF1", wire.FRAME, 400, "frame.prefix"),
    "unknown field": (b'{"queries": [], "query": []}', wire.JSON, 422, "query"),
    "missing field": (b"{}", wire.JSON, 422, "queries"),
    "inside an item": (
        b'{"queries": [{"prompt": {"ids": [1]}, "response_ids": ["a"]}]}',
        wire.JSON,
        422,
        "queries[0].response_ids",
    ),
    "another media type": (b"a=b", "application/x-www-form-urlencoded", 415, "content-type"),
}


@pytest.mark.parametrize(
    ("body", "media_type", "status", "field"), BAD_BODIES.values(), ids=BAD_BODIES
)
async def test_a_bad_body_is_a_problem_that_names_the_field(
    body, media_type, status, field, expert
):
    async with browser(service_app(expert), **{"content-type": media_type}) as http:
        response = await http.post("/v1/logprobs", content=body)

    assert field in [e.field for e in problem_of(response, status).errors]
    assert expert.asked == []


async def test_an_empty_response_and_a_batch_over_the_limit_are_refused(expert, make_query):
    app = service_app(expert)
    empty = json.loads(wire.render(LogprobsCall(queries=(make_query(),)), wire.JSON))
    empty["queries"][0]["response_ids"] = []

    async with browser(app) as http:
        response = await http.post("/v1/logprobs", json=empty)
    assert problem_of(response, 422).errors[0].field == "queries[0].response_ids"
    five = LogprobsCall(queries=(make_query(),) * 5)
    assert problem_of(await post(app, five), 422).errors[0].field == "queries"
    keys = LogprobsCall(queries=(make_query(),), answer_keys=("a" * 64,) * 2)
    assert problem_of(await post(app, keys), 422).errors[0].field == "answer_keys"


async def test_unknown_routes_and_methods_are_problems(expert):
    async with browser(service_app(expert)) as http:
        problem_of(await http.get("/v1/nothing"), 404)
        problem_of(await http.post("/v1/feedback"), 404)
        problem_of(await http.get("/v1/logprobs"), 405)


async def test_without_the_key_nothing_but_health_is_served(expert):
    app = service_app(expert, key="right")

    async with browser(app) as http:
        response = await http.get("/v1/info")
        problem_of(response, 401)
        assert response.headers["www-authenticate"] == "Bearer"
        assert (await http.get("/livez")).status_code == 200
        assert (await http.get("/readyz")).status_code == 200
    for wrong in ("Bearer wrong", "right", "Bearer righ", "Basic right", "Bearer right "):
        async with browser(app, authorization=wrong) as http:
            problem_of(await http.get("/v1/info"), 401)
    async with browser(app, authorization="Bearer right") as http:
        assert (await http.get("/v1/info")).status_code == 200


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_over_the_limit_is_refused_while_it_arrives(declared, expert):
    sent = 0

    async def chunks():
        nonlocal sent
        for _ in range(100):
            sent += 1000
            yield bytes(1000)

    app = service_app(expert, max_body_bytes=5000)
    headers = {"content-length": "100000"} if declared else {}
    async with browser(app, **headers) as http:
        response = await http.post("/v1/logprobs", content=chunks())

    problem_of(response, 413)
    assert sent <= (0 if declared else 6000)


async def test_info_says_what_the_service_is_and_that_it_reads_frames(expert):
    async with browser(service_app(expert)) as http:
        info = ServiceInfo.model_validate_json((await http.get("/v1/info")).content)

    assert info == expert.info().model_copy(update={"frames": True, "contract": CONTRACT})


async def test_a_service_that_is_not_ready_says_503(expert):
    expert.is_ready = False

    async with browser(service_app(expert)) as http:
        problem_of(await http.get("/readyz"), 503)
        assert (await http.get("/livez")).status_code == 200


async def test_weights_are_offered_to_a_service_that_has_some(expert, source):
    manifest = WeightManifest(
        version="p/l/1",
        uri="file:///w",
        files={"model.safetensors": "0" * 64},
        vocab_fingerprint="0" * 64,
    )
    offer = WeightsOffer(manifests=(manifest,))

    async with browser(service_app(expert)) as http:
        response = await http.put("/v1/weights", content=wire.render(offer, wire.JSON))
    async with browser(service_app(source)) as http:
        problem_of(await http.put("/v1/weights", content=b"{}"), 404)

    assert response.status_code == 204
    assert expert.offers == [offer]


async def test_a_source_answers_feedback(source):
    query = FeedbackQuery(
        rollout_id="r",
        prompt=Prompt(ids=np.array([1])),
        response_ids=np.array([1, 2, 3]),
        response_text="x",
        finish_reason="stop",
        payload_sha256="0" * 64,
        payload={"$array": 0, "deep": [None, {"a": 1.5}]},
    )

    for media_type in (wire.JSON, wire.FRAME):
        headers = {"content-type": media_type, "accept": media_type}
        async with browser(service_app(source), **headers) as http:
            response = await http.post(
                "/v1/feedback", content=wire.render(FeedbackCall(queries=(query,)), media_type)
            )
        reply = wire.parse(FeedbackReply, response.content, response.headers["content-type"])
        assert reply.results[0].answer is not None
        assert reply.results[0].answer.items[0].score == 3.0


async def test_calls_beyond_the_declared_concurrency_wait(expert, make_query):
    under_way = most = 0
    answer = expert.logprobs

    async def counted(queries, keys):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.01)
        under_way -= 1
        return await answer(queries, keys)

    expert.logprobs = counted
    app = service_app(expert)
    call = LogprobsCall(queries=(make_query(),))
    responses = await asyncio.gather(*(post(app, call) for _ in range(5)))

    assert [r.status_code for r in responses] == [200] * 5
    assert most == 1


def http_scope(path: str, method: str = "POST") -> dict[str, Any]:
    return {"type": "http", "method": method, "path": path, "headers": []}


async def test_a_caller_who_leaves_cancels_the_work(expert, make_query):
    expert.delay_s = 60.0
    events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    body = wire.render(LogprobsCall(queries=(make_query(),)), wire.JSON)
    events.put_nowait({"type": "http.request", "body": body})
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    running = asyncio.create_task(service_app(expert)(http_scope("/v1/logprobs"), events.get, send))
    while not expert.asked:
        await asyncio.sleep(0.001)
    events.put_nowait({"type": "http.disconnect"})
    async with asyncio.timeout(10):
        await running

    assert expert.cancelled.is_set()
    assert sent == []


async def test_a_caller_who_leaves_within_the_body_is_forgotten(expert):
    events = iter(
        [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
    )

    async def receive() -> Any:
        return next(events)

    async def send(message: Any) -> None:
        raise AssertionError(message)

    await service_app(expert)(http_scope("/v1/logprobs"), receive, send)

    assert expert.asked == []


async def lifespan(app: Any) -> list[dict[str, Any]]:
    events = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    sent: list[dict[str, Any]] = []

    async def receive() -> Any:
        return next(events)

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "lifespan"}, receive, send)
    return sent


async def test_a_service_starts_and_stops_with_its_server(expert):
    calls: list[str] = []

    async def start() -> None:
        calls.append("start")

    async def stop() -> None:
        calls.append("stop")

    expert.start, expert.stop = start, stop
    sent = await lifespan(service_app(expert))

    assert calls == ["start", "stop"]
    assert [m["type"] for m in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_a_service_that_cannot_start_says_so(expert, caplog):
    async def start() -> None:
        raise OSError("no model there")

    expert.start = start
    sent = await lifespan(service_app(expert))

    assert sent == [{"type": "lifespan.startup.failed", "message": "no model there"}]
    assert "did not start" in caplog.text


def test_the_sdk_needs_no_more_than_an_engines_environment_has():
    heavy = [
        "httpx",
        "aiohttp",
        "typer",
        "rich",
        "jinja2",
        "fastapi",
        "starlette",
        "uvicorn",
        "torch",
    ]
    loaded = f"[m for m in {heavy} if m in sys.modules]"
    program = f"import sys, preceptor_clients.sdk.service; print({loaded})"

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"
