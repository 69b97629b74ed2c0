"""Every request has an id, which its reply and its log lines tell."""

from __future__ import annotations

import logging
from typing import Any

import httpx

from preceptor_clients.kit import request_ids
from preceptor_services.gateway.http import readiness


def _http(world: Any, **options: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(world.app, **options)
    return httpx.AsyncClient(transport=transport, base_url="http://gateway")


async def test_a_reply_has_the_id_that_was_sent_or_a_new_one(world: Any) -> None:
    async with _http(world) as http:
        sent = await http.get("/livez", headers={"x-request-id": "mine-1"})
        hostile = await http.get("/livez", headers={"x-request-id": "two words"})
        refused = await http.get("/v1/experts", headers={"x-request-id": "mine-2"})

    assert sent.headers["x-request-id"] == "mine-1"
    assert len(hostile.headers["x-request-id"]) == 32
    assert (refused.status_code, refused.headers["x-request-id"]) == (401, "mine-2")


async def test_a_job_carries_the_id_of_its_request_to_the_dispatcher(world: Any) -> None:
    with request_ids.serving("from-the-trainer"):
        await world.trainer.submit_logprobs("uniform", [world.submission("a")])

    claims = await world.claim(world.queue.take())

    assert [job.request_id for job in claims.jobs] == ["from-the-trainer"]


async def test_a_failure_of_ours_is_counted_and_logged_under_its_id(
    world: Any, monkeypatch: Any, caplog: Any
) -> None:
    async def fail(self: Any) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(readiness.Readiness, "check", fail)
    seen: list[str | None] = []
    listener = logging.Handler()
    listener.emit = lambda record: seen.append(request_ids.current())  # type: ignore[method-assign]
    logging.getLogger("preceptor.gateway").addHandler(listener)
    try:
        async with _http(world, raise_app_exceptions=False) as http:
            reply = await http.get("/readyz", headers={"x-request-id": "mine"})
    finally:
        logging.getLogger("preceptor.gateway").removeHandler(listener)
    metrics = (await world.clients["reader"].exchange("GET", "/metrics")).body.decode()

    assert (reply.status_code, reply.headers["x-request-id"]) == (500, "mine")
    assert "mine" in seen
    assert 'preceptor_requests_total{method="GET",route="/readyz",status="500"} 1.0' in metrics
