"""Parts of another contract are refused in clear words; a newer minor version is welcome."""

from __future__ import annotations

import httpx
import pytest

from preceptor_clients.contract.errors import IncompatibleVersion
from preceptor_clients.contract.schemas import ServiceInfo
from preceptor_clients.contract.version import CONTRACT, HEADER, check_contract
from preceptor_clients.http.service import ServiceClient
from preceptor_clients.sdk.service import service_app

from ..world import EXPERT, SaysWhoItIs, World


class _Named:
    """A service that only says who it is."""

    def info(self) -> ServiceInfo:
        return EXPERT

    async def logprobs(self, queries: object, answer_keys: object) -> list[object]:
        return []


def _next_major() -> str:
    return f"{int(CONTRACT.partition('.')[0]) + 1}.0"


@pytest.mark.parametrize("said", [None, CONTRACT, CONTRACT.partition(".")[0] + ".999"])
def test_R23_the_same_major_version_works_together(said: str | None) -> None:
    check_contract(said, "the caller")


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        (_next_major(), "upgrade this side"),
        ("0.9", "upgrade that side"),
        ("newest", "MAJOR.MINOR"),
    ],
)
def test_R23_another_major_version_is_refused_with_what_to_do(said: str, remedy: str) -> None:
    with pytest.raises(IncompatibleVersion, match=remedy):
        check_contract(said, "the caller")


async def test_R23_the_gateway_names_its_contract_and_refuses_callers_of_another(
    world: World,
) -> None:
    key = world.settings.keys["trainer"].file.read_text()
    transport = httpx.ASGITransport(app=world.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        headers = {"authorization": f"Bearer {key}", "accept": "application/json"}
        fitting = await client.get("/v1/info", headers=headers)
        refused = await client.get("/v1/info", headers=headers | {HEADER: _next_major()})

    assert (fitting.json()["contract"], fitting.headers[HEADER]) == (CONTRACT, CONTRACT)
    assert (refused.status_code, refused.json()["code"]) == (400, "incompatible-version")
    assert _next_major() in refused.json()["detail"]


async def test_R23_a_service_names_its_contract_and_refuses_callers_of_another() -> None:
    transport = httpx.ASGITransport(app=service_app(_Named()))
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        fitting = await client.get("/v1/info")
        refused = await client.get("/v1/info", headers={HEADER: _next_major()})

    assert (fitting.json()["contract"], fitting.headers[HEADER]) == (CONTRACT, CONTRACT)
    assert (refused.status_code, refused.json()["code"]) == (400, "incompatible-version")


async def test_R23_a_client_refuses_a_server_of_another_contract() -> None:
    async def newer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={}, headers={HEADER: _next_major()})

    async with ServiceClient("http://service", transport=httpx.MockTransport(newer)) as client:
        with pytest.raises(IncompatibleVersion, match="upgrade this side"):
            await client.info()


async def test_R23_an_expert_of_another_contract_is_listed_as_refused(world: World) -> None:
    registry = world.app.state.registry
    entry = registry.get("uniform", "expert", field="expert")
    newer = EXPERT.model_copy(update={"contract": _next_major()})

    await registry._ask(entry, SaysWhoItIs(newer))

    assert entry.state == "refused"
    assert f"uniform speaks contract {_next_major()}" in entry.detail
