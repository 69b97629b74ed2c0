"""Two gateway processes and two dispatchers on one PostgreSQL and one broker."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from dispatch_parts import noted, query, submission, until
from moody import Moody

from preceptor_clients.contract import deployment as schema
from preceptor_clients.contract.errors import Conflict
from preceptor_clients.contract.schemas import (
    LogprobsOutcomes,
    LogprobsRequest,
    PrefixOutcome,
    ServiceStatus,
)
from preceptor_clients.http.gateway import GatewayClient
from preceptor_clients.http.registration import NewService, add_service
from preceptor_clients.kit.files import make_key_file
from preceptor_clients.sdk.service import service_app
from preceptor_services.jobs.embedded_broker import Broker, free_port
from preceptor_services.jobs.streams import JobStreams

from .conftest import _PATIENT, _raw_settings, serving

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]


@dataclass
class Pair:
    """Both gateways, as their callers see them."""

    folder: Path
    trainers: list[GatewayClient]
    admins: list[GatewayClient]
    configs: list[Path]
    gateways: list[subprocess.Popen[bytes]] = field(default_factory=list[subprocess.Popen[bytes]])
    dispatchers: list[subprocess.Popen[bytes]] = field(
        default_factory=list[subprocess.Popen[bytes]]
    )
    service: str = ""
    """Where the expert listens."""

    def start_gateways(self) -> None:
        """Starts those that do not run."""
        running = [*self.gateways, *[None] * len(self.configs)]
        self.gateways = [
            process if process is not None and process.poll() is None else self._start(name)
            for process, name in zip(running, self._named("gateway"), strict=False)
        ]

    def start_dispatchers(self) -> None:
        """One for each gateway."""
        for (name, config), trainer in zip(self._named("dispatcher"), self.trainers, strict=True):
            options = ("--lease-s", "2", "--gateway", str(trainer._url))
            self.dispatchers.append(self._start((name, config), *options))

    def kill(self, *processes: subprocess.Popen[bytes]) -> None:
        for process in processes:
            process.kill()
            process.wait()

    def noted(self) -> list[str]:
        """The calls that the expert has noted."""
        return noted(self.folder / "moody.log")

    def _named(self, name: str) -> list[tuple[str, Path]]:
        return [(name, config) for config in self.configs]

    def _start(self, what: tuple[str, Path], *options: str) -> subprocess.Popen[bytes]:
        name, config = what
        command = (sys.executable, "-m", f"preceptor_services.{name}", "--config", str(config))
        with (self.folder / "processes.log").open("ab") as log:
            return subprocess.Popen((*command, *options), stdout=log, stderr=log)


def _configs(folder: Path, database: str, broker_url: str, expert: str) -> list[Path]:
    """The settings of each gateway: they differ by the port alone."""
    files: list[Path] = []
    for number in range(2):
        raw = _raw_settings(folder, database, broker_url, free_port(), {"moody": expert})
        files.append(folder / f"gateway-{number}.toml")
        files[-1].write_text(schema.to_toml(schema.Deployment.model_validate(raw)))
    return files


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(
    tmp_path_factory: pytest.TempPathFactory, broker: Broker, postgres: Callable[[], str]
) -> AsyncIterator[Pair]:
    """Everything, running."""
    folder = tmp_path_factory.mktemp("pair")
    queue = JobStreams.connect(broker.url)
    await queue._redis.flushall()
    await queue.aclose()
    make_key_file(folder / "keys" / "services" / "service.key")
    expert = service_app(Moody(log=str(folder / "moody.log")), key=_key(folder, "services/service"))
    async with contextlib.AsyncExitStack() as stack:
        service = await stack.enter_async_context(serving(expert))
        configs = _configs(folder, postgres(), broker.url, service)
        urls = [schema.parse_deployment(f.read_text()).gateway.url for f in configs]
        trainers, admins = [
            [
                await stack.enter_async_context(
                    GatewayClient(url, _key(folder, name), retry=_PATIENT)
                )
                for url in urls
            ]
            for name in ("trainer", "admin")
        ]
        pair = Pair(folder, trainers, admins, configs, service=service)
        stack.callback(lambda: pair.kill(*pair.gateways, *pair.dispatchers))
        pair.start_gateways()
        pair.start_dispatchers()
        for trainer in trainers:
            await trainer.wait_ready(60)
        yield pair


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def both_run(pair: Pair) -> None:
    """A test may have killed some."""
    pair.start_gateways()
    for trainer in pair.trainers:
        await trainer.wait_ready(60)


def _key(folder: Path, name: str) -> str:
    return (folder / "keys" / f"{name}.key").read_text().strip()


async def _submit(gateway: GatewayClient, *submissions: Any) -> list[str]:
    outcomes = await gateway.submit_logprobs("moody", submissions)
    return [outcome.ticket.id for outcome in outcomes if outcome.ticket is not None]


async def _collect(gateway: GatewayClient, ids: Sequence[str]) -> list[PrefixOutcome]:
    """Waits until they are settled; without being woken it would wait for longer."""
    async with asyncio.timeout(60):
        return await gateway.collect_logprobs(ids, wait_s=120.0)


async def _state_at(gateway: GatewayClient, name: str) -> str | None:
    statuses: Sequence[ServiceStatus] = (await gateway.experts()).services
    return next((status.state for status in statuses if status.name == name), None)


async def _until_state(gateway: GatewayClient, name: str, state: str | None) -> None:
    async with asyncio.timeout(30):
        while await _state_at(gateway, name) != state:
            await asyncio.sleep(0.1)


async def test_who_waits_at_either_gateway_is_woken_by_the_report_to_one(pair: Pair) -> None:
    held = await _submit(pair.trainers[0], submission("both", query("gated")))
    waiting = [asyncio.create_task(_collect(gateway, held)) for gateway in pair.trainers]
    await until(lambda: "gated" in pair.noted())
    (pair.folder / "gate").touch()

    outcomes = [outcome for [outcome] in await asyncio.gather(*waiting)]

    (pair.folder / "gate").unlink()
    assert all(outcome.answer is not None for outcome in outcomes)


async def test_equal_questions_at_two_gateways_are_asked_once(pair: Pair) -> None:
    asked = [
        gateway.logprobs("moody", [submission(f"{n}-{i}", query("same", i))], timeout_s=30)
        for n, gateway in enumerate(pair.trainers * 5)
        for i in range(20)
    ]
    outcomes = [outcome for [outcome] in await asyncio.gather(*asked)]

    assert len(outcomes) == 200
    assert all(outcome.answer is not None for outcome in outcomes)
    assert [word for line in pair.noted() for word in line.split() if word == "same"] == [
        "same"
    ] * 20


async def test_one_idempotency_key_at_two_gateways_is_one_ticket(pair: Pair) -> None:
    same = submission("key", query("once"))
    tickets = await asyncio.gather(*(_submit(gateway, same) for gateway in pair.trainers))

    assert tickets[0] == tickets[1]


async def test_a_service_added_at_one_gateway_is_served_at_the_other_and_removed_there(
    pair: Pair,
) -> None:
    here, there = pair.admins
    new = NewService(name="newcomer", url=pair.service, key_file="service.key", self_test=False)
    await add_service(here, new, wait_s=30)
    await _until_state(there, "newcomer", "ready")
    with pytest.raises(Conflict, match="is named already"):
        await add_service(there, new, wait_s=1)

    await there.remove_expert("newcomer")

    await _until_state(here, "newcomer", None)


async def test_a_killed_gateway_leaves_its_questions_to_the_other(pair: Pair) -> None:
    first, second = pair.trainers
    asked_before = pair.noted().count("gated")
    held = await _submit(first, submission("held", query("gated", 1)))
    waiting = asyncio.create_task(_collect(second, held))
    await until(lambda: pair.noted().count("gated") > asked_before)
    pair.kill(pair.gateways[0])
    (pair.folder / "gate").touch()

    [outcome] = await waiting

    assert outcome.answer is not None


async def test_R12_a_gateway_that_is_told_to_end_leaves_open_questions_to_the_other(
    pair: Pair,
) -> None:
    (pair.folder / "gate").unlink(missing_ok=True)
    asked_before = pair.noted().count("gated")
    asked = (submission("told", query("gated", 2)),)
    body = LogprobsRequest(expert="moody", submissions=asked, wait_ms=60_000)
    headers = {"content-type": "application/json", "accept": "application/json"}
    content = body.model_dump_json().encode()
    here = asyncio.create_task(
        pair.trainers[0].raw("POST", "/v1/logprobs", content=content, headers=headers)
    )
    await until(lambda: pair.noted().count("gated") > asked_before)
    there = asyncio.create_task(_collect(pair.trainers[1], await _submit(pair.trainers[1], *asked)))
    pair.gateways[0].terminate()
    [told] = LogprobsOutcomes.model_validate_json((await here).body).outcomes
    code = await asyncio.to_thread(pair.gateways[0].wait, 30)
    (pair.folder / "gate").touch()

    [outcome] = await there

    (pair.folder / "gate").unlink()
    assert told.ticket is not None
    assert (told.ticket.state, code) == ("running", 0)
    assert outcome.answer is not None


async def test_the_deadlines_of_a_killed_gateway_are_kept_by_the_other(pair: Pair) -> None:
    first, second = pair.trainers
    pair.kill(*pair.dispatchers)
    late = await _submit(first, submission("late", query("well", timeout_ms=2000)))
    pair.kill(pair.gateways[0])

    [outcome] = await _collect(second, late)

    assert outcome.problem is not None
    assert outcome.problem.code == "deadline-exceeded"
