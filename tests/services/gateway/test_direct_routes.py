"""Simple routes are called without the framework, and reply as the framework would."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from ..world import World

HOT = ("/v1/logprobs", "/v1/feedback", "/v1/tickets/collect", "/v1/internal/claims")
CALLS: dict[str, dict[str, Any]] = {
    "no key": {"headers": {}},
    "wrong key": {"headers": {"authorization": "Bearer nobody"}},
    "scope of another": {"key": "reader"},
    "no JSON": {"content": b"{"},
    "unknown field": {"content": json.dumps({"expert": "uniform", "x": 1}).encode()},
    "unknown expert": {"content": json.dumps({"expert": "nobody", "submissions": []}).encode()},
    "other media type": {"content": b"x", "headers": {"content-type": "text/plain"}},
    "encoded body": {"content": b"x", "headers": {"content-encoding": "gzip"}},
    "body over the limit": {"content": bytes(2 << 20)},
    "nothing asked": {"content": json.dumps({"expert": "uniform", "submissions": []}).encode()},
}


async def reply_of(app: Any, world: World, call: dict[str, Any]) -> tuple[int, Any, Any]:
    key = world.settings.keys[call.get("key", "trainer")].file.read_text()
    headers = {"authorization": f"Bearer {key}"} | call.get("headers", {})
    if call.get("headers") == {}:
        headers = {}
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://g") as client:
        reply = await client.post("/v1/logprobs", content=call.get("content"), headers=headers)
    named = {k: v for k, v in reply.headers.items() if k != "x-request-id"}
    return reply.status_code, named, reply.content


@pytest.mark.parametrize("path", HOT)
async def test_the_routes_of_the_answer_path_are_called_directly(world: World, path: str) -> None:
    direct: Any = world.app.direct  # type: ignore[attr-defined]

    assert direct.serves({"type": "http", "method": "POST", "path": path})
    assert not direct.serves({"type": "http", "method": "GET", "path": path})


@pytest.mark.parametrize("name", CALLS)
async def test_a_direct_reply_is_the_frameworks_reply(
    world: World, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct = await reply_of(world.app, world, CALLS[name])
    monkeypatch.setattr(world.app.direct, "serves", lambda scope: False)  # type: ignore[attr-defined]
    usual = await reply_of(world.app, world, CALLS[name])

    assert direct == usual


async def test_a_fault_in_a_direct_route_is_a_problem_without_details(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.app.state, "questions", None)

    status, headers, body = await reply_of(world.app, world, CALLS["nothing asked"])

    assert (status, headers["content-type"]) == (500, "application/problem+json")
    assert b"NoneType" not in body
