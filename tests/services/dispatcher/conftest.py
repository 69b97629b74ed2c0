"""The dispatcher between a real gateway, a real broker and real services, all over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI

from preceptor_clients.contract import deployment as schema
from preceptor_clients.contract.schemas import PrefixOutcome, PrefixSubmission
from preceptor_clients.http.connection import RetryPolicy
from preceptor_clients.http.gateway import GatewayClient
from preceptor_clients.kit.files import make_key_file
from preceptor_clients.sdk.service import service_app
from preceptor_services.dispatcher import worker
from preceptor_services.dispatcher.process import Dispatcher
from preceptor_services.dispatcher.worker import WorkerConfig
from preceptor_services.gateway.app import create_app
from preceptor_services.jobs.embedded_broker import Broker, free_port, running_broker
from preceptor_services.jobs.streams import JobStreams
from preceptor_services.kit.blobs import LocalBlobs
from preceptor_services.store.database import Database

from ..databases import sqlite_with_tables
from .balancer import balancing

# Helpers are imported by their bare names, here and by processes that serve the test expert.
sys.path.insert(0, str(Path(__file__).parent))
from moody import Moody

_PATIENT = RetryPolicy(attempts=200, max_delay_s=0.5)
"""A process that starts on a busy machine takes its time."""


@contextlib.asynccontextmanager
async def serving(app: Any, port: int = 0) -> AsyncIterator[str]:
    """The URL of `app`, served by uvicorn in this process."""
    listener = socket.create_server(("127.0.0.1", port))
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="error", access_log=False, timeout_graceful_shutdown=1)
    )
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started:
            assert not task.done(), "the server did not start"
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        listener.close()


@dataclass
class Deployment:
    """A gateway on the shared broker, its experts' addresses, and how to add dispatchers."""

    settings: schema.Deployment
    file: Path
    queue: JobStreams
    database: Database
    client: GatewayClient
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    gateway: subprocess.Popen[bytes] | None = None
    """Where it is a process of its own."""

    async def ask(
        self, *submissions: PrefixSubmission, timeout_s: float = 30.0, **options: Any
    ) -> list[PrefixOutcome]:
        """What becomes of questions to the expert `moody`."""
        return await self.client.logprobs("moody", submissions, timeout_s=timeout_s, **options)

    @contextlib.asynccontextmanager
    async def dispatching(
        self, *, lease_s: float = 5.0, grace_s: float = 2.0
    ) -> AsyncIterator[asyncio.Event]:
        """A dispatcher in this process; setting the event asks it to stop."""
        stopping = asyncio.Event()
        key = self.settings.key_for("dispatcher").read_text().strip()
        queue = JobStreams.connect(self.settings.gateway.broker)
        config = WorkerConfig(lease_s=lease_s, grace_s=grace_s)
        url = f"http://127.0.0.1:{self.settings.gateway.port}"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(worker, "_BLOCK_S", 0.05)  # so long an idle worker takes to stop
            async with GatewayClient(url, key, retry=_PATIENT) as gateway:
                task = asyncio.create_task(Dispatcher(gateway, queue, "d", config).run(stopping))
                try:
                    yield stopping
                finally:
                    stopping.set()
                    await task
                    await queue.aclose()

    def start_dispatcher(self, *options: str, lease_s: float = 1.0) -> subprocess.Popen[bytes]:
        """A dispatcher as a process of its own, to be killed."""
        return self._start("dispatcher", "--lease-s", str(lease_s), *options)

    def start_gateway(self) -> None:
        """The gateway as a process of its own."""
        self.gateway = self._start("gateway")

    def _start(self, name: str, *options: str) -> subprocess.Popen[bytes]:
        command = (sys.executable, "-m", f"preceptor_services.{name}", "--config", str(self.file))
        with (self.file.parent / f"{name}.log").open("ab") as log:
            process = subprocess.Popen((*command, *options), stdout=log, stderr=log)
        self.processes.append(process)
        return process

    def kill_all(self) -> None:
        """Ends the processes, stopped ones too."""
        for process in self.processes:
            process.kill()
            process.wait()


@dataclass(frozen=True)
class Backend:
    """What a deployment stands on."""

    broker_url: str
    database_url: str
    binary: Path | None
    """Of the broker, to start another one."""
    num_gateways: int = 1


_PAIRS = ("valkey-sqlite", "R14-redis-sqlite", "R14-valkey-postgres", "R14-redis-postgres")
_FOR_MINUTES = re.compile("test_R(9|10)_.*minute")
_OF_SQLITE = re.compile("test_.*(locked_database|database_locked)")
_AT_TWO_GATEWAYS = re.compile("test_R(1_jobs|2_the|4|5|6|8|9_a_flood|11|20)_?")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """R14 and R16: each test of the dispatcher on every pair of back ends, in the gauntlet.

    Rows that last for minutes run on two pairs, which hold each back end once. Rows about more than
    one gateway's own process run at two gateways too.
    """
    if "backend" not in metafunc.fixturenames:
        return
    name = metafunc.function.__name__
    others = list(_PAIRS[3:] if _FOR_MINUTES.match(name) else _PAIRS[1:])
    others += ["R16-two-gateways"] if _AT_TWO_GATEWAYS.match(name) else []
    if _OF_SQLITE.match(name):
        others = [other for other in others if other.endswith("sqlite")]
    in_gauntlet = [pytest.param(other, marks=pytest.mark.gauntlet) for other in others]
    metafunc.parametrize("backend", [_PAIRS[0], *in_gauntlet], indirect=True)


@pytest.fixture
def backend(request: pytest.FixtureRequest, broker: Broker, tmp_path: Path) -> Backend:
    """The pair that the test runs on; two gateways share a Valkey and a PostgreSQL."""
    url, binary = broker.url, None
    if "redis" in request.param:
        url, binary = request.getfixturevalue("redis_server")
    on_sqlite = request.param.endswith("sqlite")
    database_url = (
        sqlite_with_tables(tmp_path / "preceptor.db")
        if on_sqlite
        else request.getfixturevalue("postgres")()
    )
    two = request.param == "R16-two-gateways"
    return Backend(url, database_url, binary, num_gateways=2 if two else 1)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A server of the Redis project and where it came from."""
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("no redis-server is on the path")
    with running_broker(tmp_path_factory.mktemp("redis"), binary=Path(found)) as running:
        yield running.url, Path(found)


@pytest.fixture
def make_deployment(
    backend: Backend, tmp_path: Path
) -> Callable[..., contextlib.AbstractAsyncContextManager[Deployment]]:
    """Builds deployments: `make_deployment(moody="http://...")`."""

    @contextlib.asynccontextmanager
    async def make(
        *,
        broker_url: str = backend.broker_url,
        database_url: str = backend.database_url,
        port: int | None = None,
        own_process: bool = False,
        max_queue: int = 10_000,
        **experts: str,
    ) -> AsyncIterator[Deployment]:
        raw = _raw_settings(tmp_path, database_url, broker_url, port or free_port(), experts)
        raw["gateway"]["max_queue"] = max_queue
        settings = schema.Deployment.model_validate(raw)
        (tmp_path / "preceptor.toml").write_text(schema.to_toml(settings))
        gateways = _each_gateway(settings, backend.num_gateways)
        database = Database.open(settings.gateway.database)
        queue = JobStreams.connect(broker_url)
        url = f"http://127.0.0.1:{settings.gateway.port}"
        key = settings.key_for("trainer").read_text().strip()
        async with (
            contextlib.AsyncExitStack() as stack,
            GatewayClient(url, key, max_concurrency=128, retry=_PATIENT) as client,
        ):
            stack.push_async_callback(database.aclose)
            stack.push_async_callback(queue.aclose)
            await queue._redis.flushall()
            file = tmp_path / "preceptor.toml"
            deployment = Deployment(settings, file, queue, database, client)
            stack.callback(deployment.kill_all)
            if own_process:
                assert len(gateways) == 1
                deployment.start_gateway()
                await client.wait_ready(60)
            elif len(gateways) > 1:
                ports = [one.gateway.port for one in gateways]
                await stack.enter_async_context(balancing(settings.gateway.port, ports))
            for number, one in enumerate([] if own_process else gateways):
                own = database if number == 0 else Database.open(one.gateway.database)
                stack.push_async_callback(own.aclose)
                app = create_app(one, own, LocalBlobs(one.gateway.blobs), queue)
                await stack.enter_async_context(serving(app, one.gateway.port))
                await _until_experts_are_known(app)
            yield deployment

    return make


async def _until_experts_are_known(app: FastAPI) -> None:
    """Who asks before is told to come again in a second. An expert may hang, or be away."""
    entries = app.state.registry._entries.values()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1.0):
            while any(entry.detail == "it has not answered yet" for entry in entries):
                await asyncio.sleep(0.005)


def _each_gateway(settings: schema.Deployment, count: int) -> list[schema.Deployment]:
    """The settings of so many gateways; a single one listens where callers ask."""
    if count == 1:
        return [settings]
    return [
        settings.model_copy(
            update={"gateway": settings.gateway.model_copy(update={"port": free_port()})}
        )
        for _ in range(count)
    ]


def _raw_settings(
    folder: Path, database_url: str, broker_url: str, port: int, experts: dict[str, str]
) -> dict[str, Any]:
    keys = folder / "keys"
    for name in ("hash", "trainer", "dispatcher", "expert", "admin", "services/service"):
        make_key_file(keys / f"{name}.key")
    return {
        "gateway": {
            "port": port,
            "database": database_url,
            "blobs": str(folder / "blobs"),
            "broker": broker_url,
            "weights_roots": [str(folder / "weights")],
            "hash_key_file": str(keys / "hash.key"),
            "service_keys": str(keys / "services"),
        },
        "keys": {
            name: {
                "file": str(keys / f"{name}.key"),
                "scopes": [name],
                "service": list(experts) or ["moody"] if name == "expert" else [],
            }
            for name in ("trainer", "dispatcher", "expert", "admin")
        },
        "experts": {
            # Every call of the moody expert is counted, so the gateway asks none of its own.
            name: {
                "url": url,
                "key_file": str(keys / "services" / "service.key"),
                "self_test": False,
            }
            for name, url in experts.items()
        },
    }


@pytest.fixture
def moody_log(tmp_path: Path) -> Path:
    """Where the expert notes its calls."""
    return tmp_path / "moody.log"


@pytest.fixture
def moody(moody_log: Path, tmp_path: Path) -> Callable[..., Any]:
    """Serves the moody expert in this process: `async with moody(delay_s=0.1) as url`."""

    def serve(
        *, port: int = 0, cls: type[Moody] = Moody, **options: Any
    ) -> contextlib.AbstractAsyncContextManager[str]:
        make_key_file(tmp_path / "keys" / "services" / "service.key")
        key = (tmp_path / "keys" / "services" / "service.key").read_text().strip()
        return serving(service_app(cls(log=str(moody_log), **options), key=key), port)

    return serve
