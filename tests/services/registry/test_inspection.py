"""The registry asks experts itself: who answers wrongly is refused, and later changes are found."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from preceptor_clients.contract.errors import Conflict, ServiceUnavailable
from preceptor_clients.contract.known import KnownAnswers, KnownCase
from preceptor_clients.contract.schemas import ServiceStatus
from preceptor_clients.http.connection import NO_RETRY
from preceptor_clients.http.registration import NewService
from preceptor_clients.http.service import ServiceClient
from preceptor_clients.sdk.service import service_app
from preceptor_services.gateway.routes.services import ServiceVersions
from preceptor_services.registry import inspection as registry_inspection
from preceptor_services.registry import services as registry_module
from preceptor_services.registry.inspection import Inspector, SelfTestFailed
from preceptor_services.registry.services import Registry, ServiceEntry

from ..world import World

sys.path.insert(0, str(Path(__file__).parents[2] / "clients" / "conformance"))

from faults import CandidatesByRank, EarlyByOne, SwappedInBatch
from ngram import FINGERPRINT, Ngram, NgramExpert, VersionedExpert


class Counting(NgramExpert):
    """Counts the calls that it answers."""

    calls = 0

    async def logprobs(self, queries, answer_keys):
        self.calls += 1
        return await super().logprobs(queries, answer_keys)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def client_of(expert: Any) -> ServiceClient:
    transport = httpx.ASGITransport(service_app(expert))
    return ServiceClient("http://expert", retry=NO_RETRY, transport=transport)


async def settled(world: World, expert: Any, **fields: Any) -> ServiceEntry:
    """The expert's entry after the gateway has heard of it."""
    registry = world.app.state.registry
    registry._connect = lambda url, key, addresses: client_of(expert)
    key_file = world.folder / "keys" / "service.key"
    entry = ServiceEntry(
        name="new", role="expert", url="http://x", key_file=key_file, cost=0, priority=5, **fields
    )
    asked = registry._ask
    await registry.add(entry)
    registry._tasks["new"].cancel()  # asked by the test instead of now and then
    async with client_of(expert) as client:
        await asked(entry, client)
    return entry


@pytest.fixture
def known(tmp_path: Path) -> Path:
    """What the model with seed 0 says of a few ids, as a file."""
    prompt, response = Ngram().sample(8, 3), Ngram().sample(8, 4)
    rows = Ngram().logprobs_TV(prompt, response)
    case = KnownCase(
        prompt_ids=tuple(prompt.tolist()),
        response_ids=tuple(response.tolist()),
        logprobs=tuple(float(rows[t, token]) for t, token in enumerate(response)),
    )
    path = tmp_path / "known.json"
    path.write_text(KnownAnswers(vocab_fingerprint=FINGERPRINT, cases=(case,)).model_dump_json())
    return path


@pytest.fixture
async def counted() -> AsyncIterator[tuple[Counting, ServiceClient]]:
    expert = Counting()
    async with client_of(expert) as client:
        yield expert, client


@pytest.mark.parametrize(
    ("fault", "check"),
    [(EarlyByOne, "index"), (CandidatesByRank, "candidates"), (SwappedInBatch, "batch")],
)
async def test_an_expert_that_answers_wrongly_is_refused_with_the_reason(world, fault, check):
    entry = await settled(world, fault())

    assert entry.state == "refused"
    assert entry.detail is not None
    assert entry.detail.startswith(f"{check}: expected")
    assert "fix:" in entry.detail
    with pytest.raises(ServiceUnavailable, match=f"{check}: expected"):
        await world.trainer.submit_logprobs("new", [world.submission("a")])


class Relayed:
    """A client of another class, which relays what the checks ask."""

    def __init__(self, client: ServiceClient) -> None:
        self.raw, self.tokenize = client.raw, client.tokenize


async def test_no_client_is_spared_the_self_test_for_its_class():
    async with client_of(EarlyByOne()) as client:
        info = await client.info()

        with pytest.raises(SelfTestFailed, match="index: expected"):
            await Inspector(canary_every_s=60).inspect(
                "new", Relayed(client), info, self_test=True, known=None
            )


async def test_an_expert_that_answers_rightly_is_ready_and_its_capabilities_are_kept(world):
    entry = await settled(world, NgramExpert())

    assert (entry.state, entry.detail) == ("ready", None)
    statuses = {s.name: s for s in (await world.trainer.experts()).services}
    assert statuses["new"].info.capabilities == NgramExpert.capabilities


async def test_a_version_is_tested_once(counted):
    expert, client = counted
    inspector = Inspector(canary_every_s=60)

    await inspector.inspect("e", client, expert.info(), self_test=True, known=None)
    first = expert.calls
    await inspector.inspect("e", client, expert.info(), self_test=True, known=None)

    assert first == expert.calls > 0
    newer = expert.info().model_copy(update={"version": "2"})
    await inspector.inspect("e", client, newer, self_test=True, known=None)
    assert expert.calls > first


async def test_the_canary_finds_weights_that_were_exchanged(counted, known):
    expert, client = counted
    clock = Clock()
    inspector = Inspector(canary_every_s=60, clock=clock)

    async def ask() -> None:
        await inspector.inspect("e", client, expert.info(), self_test=False, known=known)

    await ask()
    expert.model = Ngram(seed=1)
    await ask()  # too early for the canary
    clock.now_s = 61.0
    with pytest.raises(SelfTestFailed, match="known: expected"):
        await ask()

    expert.model = Ngram(seed=0)
    with pytest.raises(SelfTestFailed):
        await ask()  # the finding stands for a while
    clock.now_s = 200.0
    await ask()


async def test_who_cannot_be_asked_yet_is_not_asked(counted):
    expert, client = counted
    inspector = Inspector(canary_every_s=60)
    capabilities = expert.info().capabilities

    for fields in ({"kinds": ("point",)}, {"cacheable": "until_revised"}):
        other = capabilities.model_copy(update=fields)
        info = expert.info().model_copy(update={"capabilities": other})
        await inspector.inspect("e", client, info, self_test=True, known=None)

    assert expert.calls == 0


class Versioned(VersionedExpert):
    """Came with weights, as a self-teacher does."""

    def versioned(self, query):
        self.models[None] = self.model
        return super().versioned(query)


class VersionedEarly(Versioned):
    """The same, off by one."""

    def built(self, query, rows_PV, **fields):
        return super().built(query, np.roll(rows_PV, -1, 0), **fields)


async def test_an_expert_with_versions_is_asked_about_the_weights_that_it_came_with(world):
    entry = await settled(world, VersionedEarly())

    assert entry.state == "refused"
    assert entry.detail is not None
    assert entry.detail.startswith("index: expected")


@pytest.mark.parametrize("expert", [Versioned, VersionedExpert])
async def test_an_expert_with_versions_is_ready_with_weights_and_without(world, expert):
    entry = await settled(world, expert())

    assert (entry.state, entry.detail) == ("ready", None)


async def test_an_expert_that_cannot_be_reached_is_not_called_broken():
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("nobody listens")

    client = ServiceClient("http://expert", retry=NO_RETRY, transport=httpx.MockTransport(refuse))
    async with client:
        with pytest.raises(ServiceUnavailable, match="nobody listens"):
            await Inspector(canary_every_s=60).inspect(
                "e", client, NgramExpert().info(), self_test=True, known=None
            )


def known_answers(known: Path) -> KnownAnswers:
    return KnownAnswers.model_validate_json(known.read_text())


class Outside:
    """An expert in a process of its own, which may go away; a transport of its clients."""

    def __init__(self, expert: Any) -> None:
        self.expert = expert
        self.gone = False
        self._app = httpx.ASGITransport(service_app(expert))

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        if self.gone:
            raise httpx.ConnectError("nobody listens")
        return await self._app.handle_async_request(request)


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry asks as often as a test can wait for."""
    for name in ("_STARTING_S", "_READY_S", "_DOWN_S"):
        monkeypatch.setattr(registry_module, name, 0.01)
    monkeypatch.setattr(registry_inspection, "ASKED_AGAIN_S", 0.01)


@pytest.fixture
def gateway_options() -> dict[str, Any]:
    return {"canary_every_s": 0.01}


async def add(world: World, outside: Outside, **fields: Any) -> None:
    """Adds the expert as an administrator does."""
    world.app.state.registry._connect = lambda url, key, addresses: ServiceClient(
        "http://expert", retry=NO_RETRY, transport=httpx.MockTransport(outside)
    )
    new = NewService(name="later", url="http://expert", key_file="service.key", **fields)
    await world.clients["admin"].call("POST", "/v1/experts", body=new, reply=ServiceStatus)


async def until(world: World, state: str, words: str = "") -> ServiceStatus:
    """The expert's status once it is this and says so."""
    async with asyncio.timeout(30):
        while True:
            services = (await world.trainer.experts()).services
            [found] = [service for service in services if service.name == "later"]
            if found.state == state and words in (found.detail or ""):
                return found
            await asyncio.sleep(0.01)


@pytest.mark.usefixtures("often")
async def test_an_expert_added_at_run_time_is_tested_and_then_watched(world, known):
    outside = Outside(NgramExpert())

    await add(world, outside, known=known_answers(known))
    await until(world, "ready")
    outside.expert.model = Ngram(seed=1)
    await until(world, "refused", "known: expected")
    with pytest.raises(ServiceUnavailable, match="known: expected"):
        await world.trainer.submit_logprobs("later", [world.submission("a")])
    outside.expert.model = Ngram(seed=0)
    await until(world, "ready")
    outside.gone = True
    await until(world, "unreachable", "nobody listens")
    outside.gone = False
    await until(world, "ready")


@pytest.mark.usefixtures("often")
async def test_a_broken_expert_added_at_run_time_is_refused_with_the_reason_until_it_is_mended(
    world,
):
    outside = Outside(EarlyByOne())

    await add(world, outside)
    refused = await until(world, "refused", "index: expected")

    assert refused.info is None
    outside._app = httpx.ASGITransport(service_app(NgramExpert()))
    await until(world, "ready")


@pytest.mark.usefixtures("often")
async def test_an_expert_that_takes_anothers_place_is_tested_under_the_same_version_too(world):
    await add(world, Outside(NgramExpert()))
    await until(world, "ready")

    await add(world, Outside(EarlyByOne()), replaces=True)

    await until(world, "refused", "index: expected")
    with pytest.raises(Conflict, match="of the settings"):
        await world.clients["admin"].call(
            "POST",
            "/v1/experts",
            body=NewService(name="uniform", url="http://x", key_file="service.key", replaces=True),
        )


@pytest.mark.usefixtures("often")
async def test_a_new_version_is_tested_too_and_the_old_one_stays_on_record(world, monkeypatch):
    outside = Outside(NgramExpert())
    await add(world, outside)
    await until(world, "ready")
    newer = outside.expert.info().model_copy(update={"version": "2"})

    monkeypatch.setattr(NgramExpert, "info", lambda self: newer)
    monkeypatch.setattr(NgramExpert, "rows_TV", EarlyByOne.rows_TV)
    await until(world, "refused", "index: expected")
    monkeypatch.undo()
    monkeypatch.setattr(NgramExpert, "info", lambda self: newer)
    monkeypatch.setattr(registry_inspection, "ASKED_AGAIN_S", 0.0)
    ready = await until(world, "ready")

    assert ready.info is not None
    assert ready.info.version == "2"
    kept = await world.trainer.call("GET", "/v1/experts/later/versions", reply=ServiceVersions)
    assert [one.info.version for one in kept.versions] == ["2", "1"]


async def test_what_was_added_at_run_time_is_recalled_with_its_canary(world, known):
    answers = known_answers(known)
    await add(world, Outside(NgramExpert()), known=answers, self_test=False, cost=0.5)

    again = Registry(
        world.database, lambda url, key, addresses: client_of(None), world.clock, world.settings
    )
    again._watch = lambda entry: None
    await again.start()

    entry = again.get("later", "expert", field="expert")
    assert (entry.known, entry.self_test, entry.cost) == (answers, False, 0.5)
    assert not again.get("uniform", "expert", field="expert").added_at_runtime


async def test_a_canary_that_cannot_be_read_is_said(counted, tmp_path):
    expert, client = counted

    with pytest.raises(SelfTestFailed, match="canary cannot be read"):
        await Inspector(canary_every_s=60).inspect(
            "e", client, expert.info(), self_test=False, known=tmp_path / "gone.json"
        )
