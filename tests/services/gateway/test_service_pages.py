"""Health, metrics, the page of routes, and adding a service at run time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from preceptor_clients.contract.errors import Conflict, Forbidden, Invalid, NotFound
from preceptor_clients.contract.schemas import ServiceInfo, ServiceStatus
from preceptor_clients.http.registration import NewService
from preceptor_services.gateway.routes.services import ServiceVersions
from preceptor_services.store import services

from ..world import EXPERT, World


async def test_ready_is_not_live(world: World) -> None:
    assert await world.trainer.ready(30)

    world.queue.down = True

    assert not await world.trainer.ready(30)
    assert (await world.trainer.exchange("GET", "/livez")).body == b'{"state":"live"}'
    # Without the client, which would wait for it.
    async with httpx.AsyncClient(transport=httpx.ASGITransport(world.app)) as http:
        assert (await http.get("http://gateway/readyz")).status_code == 503


async def test_the_log_has_when_the_broker_goes_and_comes_back_once_each(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "preceptor.gateway")
    for down in (False, True, True, False, False):
        world.queue.down = down
        await world.trainer.ready(30)

    said = [r.getMessage() for r in caplog.records if r.getMessage().startswith("the broker")]
    assert said == ["the broker does not answer", "the broker answers"]


async def test_metrics_count_by_route_and_not_by_path(world: World) -> None:
    await world.trainer.submit_logprobs("uniform", [world.submission("a")])
    await world.work()
    with pytest.raises(Exception, match="k-nothing"):
        await world.trainer.cancel("k-nothing")

    text = (await world.clients["reader"].exchange("GET", "/metrics")).body.decode()

    assert 'preceptor_answers_total{outcome="done",service="uniform"} 1.0' in text
    assert 'route="/v1/tickets/{ticket_id}"' in text
    assert "k-nothing" not in text


async def test_every_route_has_a_page_whose_references_resolve(world: World) -> None:
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


async def test_S6_the_page_names_every_route_that_is_served_and_no_other(world: World) -> None:
    page = world.app.openapi()["paths"]
    named = {(path, method.upper()) for path, methods in page.items() for method in methods}

    served = set(_served(world.app))

    assert served - named == {("/openapi.json", "GET"), *_FOR_BROWSERS}
    assert named <= served


_FOR_BROWSERS = {(path, "GET") for path in ("/", "/corrections", "/corrections/{name:path}")}
"""Pages, which have no schema."""


def _served(router: Any) -> Iterator[tuple[str, str]]:
    for route in router.routes:
        if hasattr(route, "original_router"):
            yield from _served(route.original_router)
        elif hasattr(route, "methods"):
            yield from ((route.path, method) for method in route.methods - {"HEAD", "OPTIONS"})


async def test_only_an_admin_adds_a_service_and_only_with_a_key_of_ours(world: World) -> None:
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


async def test_versions_of_an_expert_are_kept_and_one_that_comes_back_is_the_last(
    world: World,
) -> None:
    newer = EXPERT.model_copy(update={"version": "2"})
    for info, now in ((newer, 2e9), (EXPERT, 3e9)):
        row = {"service": "uniform", "version": info.version, "seen_at": now}
        async with world.database.write() as conn:
            await services.add_version(conn, row | {"info": info.model_dump(mode="json")})

    kept = await world.clients["reader"].call(
        "GET", "/v1/experts/uniform/versions", reply=ServiceVersions
    )
    async with world.database.read() as conn:
        last = await services.last_info(conn, "uniform")

    assert [(one.info.version, one.seen_at) for one in kept.versions] == [("1", 3e9), ("2", 2e9)]
    assert ServiceInfo.model_validate(last).version == "1"
    with pytest.raises(NotFound):
        await world.clients["reader"].call("GET", "/v1/experts/nobody/versions")


async def test_an_answer_without_a_price_costs_what_its_expert_says_of_a_token(
    world: World,
) -> None:
    registry = world.app.state.registry
    entry = registry.get("uniform", "expert", field="expert")
    priced = EXPERT.capabilities.model_copy(update={"cost_per_token": 0.5})

    entry.info = EXPERT.model_copy(update={"capabilities": priced})
    by_token = registry.cost("uniform", 3)
    entry.cost = 0.2
    by_answer = registry.cost("uniform", 3)

    assert (by_token, by_answer, registry.cost("teacher", 3)) == (1.5, 0.2, 0.0)


async def test_keys_are_nowhere_in_the_database(world: World) -> None:
    await world.trainer.submit_logprobs("uniform", [world.submission("a")])

    stored = b"".join(file.read_bytes() for file in world.folder.glob("gateway.db*"))

    for key in world.settings.keys.values():
        assert key.file.read_bytes() not in stored
