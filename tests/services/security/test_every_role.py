"""S1: every route against every key, from a table. A new route without an entry fails."""

from __future__ import annotations

from typing import Any, Final

import httpx
import pytest

from preceptor_clients.contract.corrections import IssuedKey, NewPerson, Role
from preceptor_clients.contract.errors import NotFound

from ..world import World

ALL: Final = frozenset({"trainer", "dispatcher", "expert", "reader"})
"""The keys of the deployment, besides `admin`, which opens everything but what only people may."""
PEOPLE: Final[frozenset[Role]] = frozenset({"annotator", "reviewer"})

MAY: Final[dict[str, frozenset[str]]] = {
    "POST /v1/logprobs": frozenset({"trainer"}),
    "POST /v1/feedback": frozenset({"trainer"}),
    "POST /v1/feedback/retire": frozenset(),
    "POST /v1/tickets/collect": frozenset({"trainer"}),
    "GET /v1/tickets/{ticket_id}": frozenset({"trainer"}),
    "DELETE /v1/tickets/{ticket_id}": frozenset({"trainer"}),
    "PUT /v1/answers/{answer_key}": frozenset({"expert"}),
    "GET /v1/arrivals": frozenset({"trainer"}),
    "POST /v1/weights": frozenset({"trainer"}),
    "GET /v1/weights/{policy}/{lineage}/{step}": ALL,
    "GET /v1/weights/{policy}/{lineage}/{step}/lineage": ALL,
    "POST /v1/runs": frozenset({"trainer"}),
    "GET /v1/runs": frozenset({"trainer", "reader"}),
    "POST /v1/lineages": frozenset({"trainer"}),
    "POST /v1/records": frozenset({"trainer"}),
    "POST /v1/steps": frozenset({"trainer"}),
    "GET /v1/runs/{run}/accounting": frozenset({"trainer", "reader"}),
    "GET /v1/runs/{run}": frozenset({"trainer", "reader"}),
    "GET /v1/runs/{run}/rollouts": frozenset({"trainer", "reader"}),
    "GET /v1/runs/{run}/targets": frozenset({"trainer", "reader"}),
    "GET /v1/targets/{target_id}/trace": frozenset({"trainer", "reader"}),
    "GET /v1/rollouts/{rollout_id}/trace": frozenset({"trainer", "reader"}),
    "GET /v1/experts": ALL,
    "POST /v1/experts": frozenset(),
    "DELETE /v1/experts/{name}": frozenset(),
    "GET /v1/experts/{name}/quarantine": frozenset({"trainer", "reader"}),
    "GET /v1/experts/{name}/versions": ALL,
    "GET /v1/info": ALL,
    "PUT /v1/blobs/{sha256}": frozenset({"trainer"}),
    "GET /v1/blobs/{sha256}": frozenset({"trainer", "reader"}),
    "POST /v1/internal/claims": frozenset({"dispatcher"}),
    "POST /v1/internal/reports": frozenset({"dispatcher"}),
    "GET /v1/internal/services": frozenset({"dispatcher"}),
    "GET /v1/audit": frozenset(),
    "GET /v1/jobs/dead": frozenset(),
    "POST /v1/jobs/{job_id}/replay": frozenset(),
    "GET /metrics": frozenset({"reader", "dispatcher"}),
    "GET /v1/corrections/me": PEOPLE,
    "PUT /v1/corrections/me/settings": PEOPLE,
    "GET /v1/corrections/rounds": PEOPLE | {"trainer"},
    "GET /v1/corrections/rounds/{round_name}/agreement": frozenset({"reviewer", "trainer"}),
    "GET /v1/corrections/claims": PEOPLE,
    "POST /v1/corrections/claims": PEOPLE,
    "POST /v1/corrections/claims/{claim_id}/renew": PEOPLE,
    "POST /v1/corrections/claims/{claim_id}/release": PEOPLE,
    "POST /v1/corrections/claims/{claim_id}/skip": PEOPLE,
    "POST /v1/corrections/claims/{claim_id}/flag": PEOPLE,
    "POST /v1/corrections/claims/{claim_id}/submit": PEOPLE,
    "GET /v1/corrections/items": PEOPLE,
    "POST /v1/corrections/items": frozenset({"reviewer", "trainer"}),
    "GET /v1/corrections/items/{item_id}": PEOPLE,
    "GET /v1/corrections/items/{item_id}/experts": PEOPLE,
    "PUT /v1/corrections/items/{item_id}/draft": PEOPLE,
    "DELETE /v1/corrections/items/{item_id}/draft": PEOPLE,
    "POST /v1/corrections/items/{item_id}/review": frozenset({"reviewer"}),
    "GET /v1/corrections/people": frozenset(),
    "POST /v1/corrections/people": frozenset(),
    "POST /v1/corrections/people/{name}/key": frozenset(),
    "DELETE /v1/corrections/people/{name}/key": frozenset(),
    "POST /v1/corrections/people/{name}/retire": frozenset(),
    "PUT /v1/corrections/rounds/{round_name}": frozenset({"reviewer", "trainer"}),
    "POST /v1/corrections/rollouts": frozenset({"reviewer", "trainer"}),
    "GET /v1/corrections/results": frozenset({"reviewer", "trainer"}),
    "GET /v1/corrections/export": frozenset({"reviewer", "trainer"}),
    "POST /v1/corrections/import": frozenset(),
    "POST /v1/corrections/questions": frozenset({"expert"}),
    "GET /v1/corrections/due": frozenset({"expert"}),
    "POST /v1/corrections/lookup": frozenset({"expert"}),
    "POST /v1/corrections/given": frozenset({"expert"}),
    "PUT /v1/corrections/vocabularies/{fingerprint}": frozenset({"expert"}),
    "GET /vllm/{expert}/health": frozenset({"trainer"}),
    "GET /vllm/{expert}/v1/models": frozenset({"trainer"}),
    "POST /vllm/{expert}/v1/completions": frozenset({"trainer"}),
    "POST /vllm/{expert}/tokenize": frozenset({"trainer"}),
}
OPEN: Final = frozenset({"GET /livez", "GET /readyz"})
_FILLED: Final = {
    "{step}": "1",
    "{sha256}": "ab" * 32,
    "{answer_key}": "ab" * 32,
    "{fingerprint}": "v2-" + "ab" * 32,
}


async def _keys(world: World) -> dict[str, str]:
    """One secret of each role."""
    tokens = {name: key.file.read_text() for name, key in world.settings.keys.items()}
    for role in PEOPLE:
        made = await world.clients["admin"].call(
            "POST",
            "/v1/corrections/people",
            body=NewPerson(name=role, role=role),
            reply=IssuedKey,
        )
        tokens[role] = made.key
    return tokens


def _path(route: str) -> str:
    path = route.partition(" ")[2]
    for name, value in _FILLED.items():
        path = path.replace(name, value)
    return "".join("x" if "}" in part else part for part in _split(path))


def _split(path: str) -> list[str]:
    """Pieces of the path, each placeholder one of its own."""
    pieces: list[str] = []
    for part in path.split("{"):
        name, closed, rest = part.partition("}")
        pieces += [name + closed, rest] if closed else [part]
    return pieces


async def _status(world: World, route: str, token: str | None) -> int:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    transport = httpx.ASGITransport(app=world.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        reply = await client.request(route.partition(" ")[0], _path(route), headers=headers)
    return reply.status_code


async def test_S1_every_route_is_in_the_table_of_roles(world: World) -> None:
    served = {
        f"{method.upper()} {path}"
        for path, methods in world.app.openapi()["paths"].items()
        for method in methods
    }

    assert served == MAY.keys() | OPEN


async def test_S1_a_key_opens_the_routes_of_its_role_and_no_other(world: World) -> None:
    tokens = await _keys(world)
    wrong: list[Any] = []
    for route, may in MAY.items():
        for role in (*sorted(ALL), *sorted(PEOPLE), None):
            status = await _status(world, route, None if role is None else tokens[role])
            opened = status not in (401, 403)
            if opened != (role in may):
                wrong.append((route, role, status))

    assert wrong == []


async def test_S1_another_callers_ticket_is_as_if_it_did_not_exist(world: World) -> None:
    [outcome] = await world.trainer.submit_logprobs("uniform", [world.submission("a")])
    other = world.clients["other"]

    for call in (
        other.cancel(outcome.ticket.id),
        other.collect_logprobs([outcome.ticket.id]),
        other.exchange("GET", f"/v1/tickets/{outcome.ticket.id}"),
    ):
        with pytest.raises(NotFound):
            await call
    [mine] = await world.trainer.collect_logprobs([outcome.ticket.id])
    assert mine.ticket.state == "queued"


CONTROL: Final = (
    *("/collective_rpc", "/update_weights", "/v1/load_lora_adapter", "/start_weight_update"),
    *("/pause", "/resume", "/sleep", "/wake_up", "/reset_prefix_cache", "/weight_info"),
)


@pytest.mark.parametrize("key", ["trainer", "admin"])
async def test_S5_no_control_route_of_an_engine_is_reached_in_any_spelling(
    world: World, key: str
) -> None:
    headers = {"authorization": f"Bearer {world.settings.keys[key].file.read_text()}"}
    transport = httpx.ASGITransport(app=world.app)
    paths = [
        prefix + spelled
        for route in CONTROL
        for prefix in ("", "/v1/experts/uniform", "/vllm/uniform", "/vllm/uniform/v1/..")
        for spelled in (route, route.replace("/", "%2F"), "/." + route, "/%2e%2e" + route)
    ]
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        statuses = {
            (method, path): (await client.request(method, path, headers=headers)).status_code
            for path in paths
            for method in ("GET", "POST")
        }

    assert {call: s for call, s in statuses.items() if s not in (404, 405)} == {}
