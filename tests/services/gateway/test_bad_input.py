"""Whatever is wrong comes back as one kind of problem, which names the field."""

from __future__ import annotations

import json
from typing import Any

import httpx
import numpy as np
import pytest

from preceptor_clients.contract import frame
from preceptor_clients.contract.errors import (
    ContextTooLong,
    Invalid,
    NotFound,
    PreceptorError,
    VocabularyMismatch,
)
from preceptor_clients.contract.schemas import WantedWeights

from ..world import World


async def _raw(world: World, method: str, path: str, **options: Any) -> httpx.Response:
    transport = httpx.ASGITransport(app=world.app, raise_app_exceptions=False)
    headers = options.pop("headers", None) or {
        "authorization": f"Bearer {world.settings.keys['trainer'].file.read_text()}"
    }
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        return await client.request(method, path, headers=headers, **options)


def _problem(response: httpx.Response) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == response.status_code
    assert problem["detail"]
    return problem


def _fields(error: PreceptorError) -> list[str]:
    return [e.field for e in error.errors]


async def test_wrong_vocabulary_fingerprint(world: World) -> None:
    with pytest.raises(VocabularyMismatch) as refused:
        await world.trainer.submit_logprobs(
            "uniform", [world.submission("a", vocab_fingerprint="0" * 64)]
        )

    assert _fields(refused.value) == ["submissions[0].query.vocab_fingerprint"]


async def test_id_outside_the_vocabulary(world: World) -> None:
    with pytest.raises(Invalid) as refused:
        await world.trainer.submit_logprobs("uniform", [world.submission("a", (1, 16))])

    assert _fields(refused.value) == ["submissions[0].query.response_ids"]


async def test_empty_response(world: World) -> None:
    query = json.loads(world.query().model_dump_json(exclude_none=True))
    body = {
        "expert": "uniform",
        "submissions": [{"idempotency_key": "a", "query": query | {"response_ids": []}}],
    }

    response = await _raw(world, "POST", "/v1/logprobs", json=body)

    assert response.status_code == 422
    assert _problem(response)["errors"][0]["field"] == "submissions[0].query.response_ids"


async def test_context_that_does_not_fit(world: World) -> None:
    with pytest.raises(ContextTooLong) as refused:
        await world.trainer.submit_logprobs("uniform", [world.submission("a", [1] * 63)])

    assert _fields(refused.value) == ["submissions[0].query.response_ids"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"top_k": 9}, "top_k"),
        ({"candidate_ids": np.zeros((3, 2), np.int32)}, "candidate_ids"),
    ],
)
async def test_more_than_the_expert_can_do(world: World, change: Any, field: str) -> None:
    with pytest.raises(Invalid) as refused:
        await world.trainer.submit_logprobs("uniform", [world.submission("a", **change)])

    assert _fields(refused.value) == [f"submissions[0].query.{field}"]


async def test_one_bad_question_does_not_stop_the_others(world: World) -> None:
    good, bad = await world.trainer.submit_logprobs(
        "uniform", [world.submission("a"), world.submission("b", (1, 16))]
    )

    assert good.ticket.state == "queued"
    assert bad.problem.errors[0].field == "submissions[1].query.response_ids"


async def test_unknown_expert_and_source(world: World) -> None:
    with pytest.raises(NotFound) as expert:
        await world.trainer.submit_logprobs("nobody", [world.submission("a")])
    with pytest.raises(NotFound) as source:
        await world.trainer.submit_feedback("uniform", [await world.feedback_submission("a")])

    assert _fields(expert.value) == ["expert"]
    assert _fields(source.value) == ["source"]


async def test_weights_that_are_missing_or_unknown(world: World) -> None:
    wanted = WantedWeights(mode="exact", version="p/l0/3")
    for submission in (world.submission("a"), world.submission("b", weights=wanted)):
        with pytest.raises(PreceptorError) as refused:
            await world.trainer.submit_logprobs("teacher", [submission])

        assert _fields(refused.value) == ["submissions[0].query.weights"]


async def test_payload_that_was_never_put(world: World) -> None:
    submission = await world.feedback_submission("a")
    lost = submission.query.model_copy(update={"payload_sha256": "0" * 64})

    with pytest.raises(Invalid) as refused:
        await world.trainer.submit_feedback(
            "executor", [submission.model_copy(update={"query": lost})]
        )

    assert _fields(refused.value) == ["submissions[0].query.payload_sha256"]


@pytest.mark.parametrize(
    ("body", "media_type", "status", "field"),
    [
        (b"PCF1 not a frame", frame.MEDIA_TYPE, 400, "frame"),
        (b"{", "application/json", 400, "body"),
        (b"{}", "application/json", 422, "expert"),
        (b'{"expert": "uniform", "submissions": [], "x": 1}', "application/json", 422, "x"),
        (b"expert=uniform", "text/plain", 415, "content-type"),
    ],
)
async def test_malformed_bodies(
    world: World, body: bytes, media_type: str, status: int, field: str
) -> None:
    key = world.settings.keys["trainer"].file.read_text()
    headers = {"authorization": f"Bearer {key}", "content-type": media_type}

    response = await _raw(world, "POST", "/v1/logprobs", content=body, headers=headers)

    problem = _problem(response)
    assert response.status_code == status
    assert problem["errors"][0]["field"].startswith(field)


@pytest.mark.parametrize("header", [{}, {"authorization": "Bearer x"}, {"authorization": "x"}])
async def test_wrong_key(world: World, header: dict[str, str]) -> None:
    response = await _raw(world, "GET", "/v1/experts", headers=header or {"x": "y"})

    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert _problem(response)["errors"][0]["field"] == "authorization"


async def test_key_of_another_scope(world: World) -> None:
    key = world.settings.keys["expert"].file.read_text()

    response = await _raw(
        world, "POST", "/v1/internal/claims", headers={"authorization": f"Bearer {key}"}
    )

    assert response.status_code == 403
    assert _problem(response)["errors"][0]["field"] == "authorization"


async def test_every_route_asks_for_a_key(world: World) -> None:
    open_routes = {"/livez", "/readyz", "/openapi.json"}
    asked: dict[str, int] = {}
    for path, methods in world.app.openapi()["paths"].items():
        for method in methods:
            response = await _raw(world, method.upper(), path, headers={"x": "y"})
            asked[f"{method} {path}"] = response.status_code
            assert path in open_routes or response.status_code == 401, (method, path)

    assert len(asked) > 20


async def test_unknown_route_and_method(world: World) -> None:
    nowhere = await _raw(world, "GET", "/v1/collective_rpc")
    wrong = await _raw(world, "PATCH", "/v1/logprobs")

    assert (nowhere.status_code, wrong.status_code) == (404, 405)
    assert _problem(nowhere)["errors"][0]["field"] == "path"
    assert _problem(wrong)["errors"][0]["field"] == "method"


async def test_bad_parameters(world: World) -> None:
    response = await _raw(world, "GET", "/v1/arrivals?run=r&after=-1")

    assert response.status_code == 422
    assert _problem(response)["errors"][0]["field"] == "query.after"


async def test_a_body_over_the_limit_is_refused_announced_or_not(world: World) -> None:
    big = b"x" * (1 << 20) + b"x"

    async def chunks() -> Any:
        for start in range(0, len(big), 1 << 16):
            yield big[start : start + (1 << 16)]

    announced = await _raw(world, "PUT", f"/v1/blobs/{'0' * 64}", content=big)
    chunked = await _raw(world, "PUT", f"/v1/blobs/{'0' * 64}", content=chunks())

    assert (announced.status_code, chunked.status_code) == (413, 413)
    assert _problem(announced)["errors"][0]["field"] == "body"
    assert _problem(chunked)["errors"][0]["field"] == "body"


async def test_a_small_body_that_unpacks_to_more_than_the_limit_is_refused(world: World) -> None:
    few = np.random.default_rng(0).integers(0, 4, 1 << 20, np.int32)
    bomb = frame.encode({"x": few}, compress=True)
    key = world.settings.keys["trainer"].file.read_text()
    headers = {"authorization": f"Bearer {key}", "content-type": frame.MEDIA_TYPE}

    response = await _raw(world, "POST", "/v1/records", content=bomb, headers=headers)

    assert len(bomb) < 1 << 20
    assert response.status_code == 400
    assert _problem(response)["errors"][0]["field"] == "frame.prefix"


async def test_a_fault_of_ours_is_a_problem_that_gives_nothing_away(world: World) -> None:
    world.app.state.questions.outcomes.__dict__["database"] = None

    response = await _raw(world, "GET", "/v1/tickets/x")

    assert response.status_code == 500
    assert "NoneType" not in response.text
    assert _problem(response)["code"] == "error"
