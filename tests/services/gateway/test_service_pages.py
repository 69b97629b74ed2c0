"""Health, metrics, the page of routes, and adding a service at run time."""

from __future__ import annotations

import re
from typing import Any

import pytest

from preceptor_clients.errors import Conflict, Forbidden, Invalid, ServiceUnavailable
from preceptor_clients.schemas import ServiceStatus
from preceptor_services.gateway.routes.services import NewService


async def test_ready_is_not_live(world: Any) -> None:
    assert await world.trainer.ready()

    world.queue.down = True

    assert not await world.trainer.ready()
    assert (await world.trainer.exchange("GET", "/livez")).body == b'{"state":"live"}'
    with pytest.raises(ServiceUnavailable):
        await world.trainer.call("GET", "/readyz")


async def test_metrics_count_by_route_and_not_by_path(world: Any) -> None:
    await world.trainer.submit_logprobs("uniform", [world.submission("a")])
    await world.work()
    with pytest.raises(Exception, match="k-nothing"):
        await world.trainer.cancel("k-nothing")

    text = (await world.clients["reader"].exchange("GET", "/metrics")).body.decode()

    assert 'preceptor_answers_total{outcome="done",service="uniform"} 1.0' in text
    assert 'route="/v1/tickets/{ticket_id}"' in text
    assert "k-nothing" not in text


async def test_every_route_has_a_page_whose_references_resolve(world: Any) -> None:
    page = world.app.openapi()
    names = set(re.findall(r"#/components/schemas/([^'\"]+)", str(page)))

    assert names <= set(page["components"]["schemas"])
    assert "$defs" not in str(page)
    for path, methods in page["paths"].items():
        for method, operation in methods.items():
            assert operation["responses"]["default"]["content"].keys() == {
                "application/problem+json"
            }, (method, path)
            reads_bytes = path.startswith("/v1/blobs")
            if method in ("post", "put") and not reads_bytes:
                assert operation["requestBody"]["content"]["application/json"]["schema"], path


async def test_only_an_admin_adds_a_service_and_only_with_a_key_of_ours(world: Any) -> None:
    new = NewService(name="later", url="http://127.0.0.1:1", key_file="service.key")

    with pytest.raises(Forbidden):
        await world.trainer.call("POST", "/v1/experts", body=new, reply=ServiceStatus)
    with pytest.raises(Invalid) as no_key:
        await world.clients["admin"].call(
            "POST", "/v1/experts", body=new.model_copy(update={"key_file": "gone.key"})
        )
    with pytest.raises(Conflict):
        await world.clients["admin"].call(
            "POST", "/v1/experts", body=new.model_copy(update={"name": "uniform"})
        )

    assert no_key.value.errors[0].field == "key_file"


async def test_keys_are_nowhere_in_the_database(world: Any) -> None:
    await world.trainer.submit_logprobs("uniform", [world.submission("a")])

    stored = b"".join(file.read_bytes() for file in world.folder.glob("gateway.db*"))

    for key in world.settings.keys.values():
        assert key.file.read_bytes() not in stored
