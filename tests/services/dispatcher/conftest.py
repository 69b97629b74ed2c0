"""The dispatcher between a real gateway, a real broker and real services, all over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from preceptor_clients.http import GatewayClient
from preceptor_clients.schemas import (
    PrefixOutcome,
    PrefixSubmission,
)
from preceptor_clients.service import service_app
from preceptor_services.blobs import LocalBlobs
from preceptor_services.broker import Broker, free_port
from preceptor_services.config import Settings
from preceptor_services.dispatcher.process import Dispatcher
from preceptor_services.dispatcher.worker import WorkerConfig
from preceptor_services.gateway.app import create_app
from preceptor_services.queue import JobQueue
from preceptor_services.store.database import Database
from preceptor_services.supervisor.plan import make_key
from preceptor_services.supervisor.toml_text import to_toml

# Helpers are imported by their bare names, here and by processes that serve the test expert.
sys.path.insert(0, str(Path(__file__).parent))
from moody import Moody


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

    settings: Settings
    file: Path
    queue: JobQueue
    database: Database
    client: GatewayClient
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

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
        queue = JobQueue.connect(self.settings.gateway.broker)
        config = WorkerConfig(lease_s=lease_s, grace_s=grace_s)
        url = f"http://127.0.0.1:{self.settings.gateway.port}"
        async with GatewayClient(url, key) as gateway:
            task = asyncio.create_task(Dispatcher(gateway, queue, "d", config).run(stopping))
            try:
                yield stopping
            finally:
                stopping.set()
                await task
                await queue.aclose()

    def start_dispatcher(self, *, lease_s: float = 1.0) -> subprocess.Popen[bytes]:
        """A dispatcher as a process of its own, to be killed."""
        with (self.file.parent / "dispatcher.log").open("ab") as log:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "preceptor_services.dispatcher"),
                    *("--config", str(self.file), "--lease-s", str(lease_s)),
                ],
                stdout=log,
                stderr=log,
            )
        self.processes.append(process)
        return process

    def kill_dispatchers(self) -> None:
        """Ends the processes, stopped ones too."""
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def make_deployment(
    broker: Broker, queue: JobQueue, tmp_path: Path
) -> Callable[..., contextlib.AbstractAsyncContextManager[Deployment]]:
    """Builds deployments: `make_deployment(moody="http://...")`."""

    @contextlib.asynccontextmanager
    async def make(
        *, broker_url: str = broker.url, port: int | None = None, **experts: str
    ) -> AsyncIterator[Deployment]:
        settings = _settings(tmp_path, broker_url, port or free_port(), experts)
        database = Database.open(settings.gateway.database)
        own_queue = JobQueue.connect(broker_url)
        app = create_app(settings, database, LocalBlobs(settings.gateway.blobs), own_queue)
        try:
            async with serving(app, settings.gateway.port) as url:
                key = settings.key_for("trainer").read_text().strip()
                async with GatewayClient(url, key, max_concurrency=128) as client:
                    deployment = Deployment(
                        settings, tmp_path / "preceptor.toml", own_queue, database, client
                    )
                    try:
                        yield deployment
                    finally:
                        deployment.kill_dispatchers()
        finally:
            await own_queue.aclose()
            await database.aclose()

    return make


def _settings(folder: Path, broker_url: str, port: int, experts: dict[str, str]) -> Settings:
    keys = folder / "keys"
    raw = {
        "gateway": {
            "port": port,
            "database": f"sqlite+aiosqlite:///{folder}/preceptor.db",
            "blobs": str(folder / "blobs"),
            "broker": broker_url,
            "weights_roots": [str(folder / "weights")],
            "hash_key_file": str(keys / "hash.key"),
        },
        "keys": {
            name: {"file": str(keys / f"{name}.key"), "scopes": [name]}
            for name in ("trainer", "dispatcher", "expert", "admin")
        },
        "experts": {
            name: {"url": url, "key_file": str(keys / "service.key")}
            for name, url in experts.items()
        },
    }
    for name in ("hash", "trainer", "dispatcher", "expert", "admin", "service"):
        make_key(keys / f"{name}.key")
    (folder / "preceptor.toml").write_text(to_toml(raw))
    return Settings.model_validate(raw)


@pytest.fixture
def moody_log(tmp_path: Path) -> Path:
    """Where the expert notes its calls."""
    return tmp_path / "moody.log"


@pytest.fixture
def moody(moody_log: Path, tmp_path: Path) -> Callable[..., Any]:
    """Serves the moody expert in this process: `async with moody(delay_s=0.1) as url`."""

    def serve(*, port: int = 0, **options: Any) -> contextlib.AbstractAsyncContextManager[str]:
        make_key(tmp_path / "keys" / "service.key")
        key = (tmp_path / "keys" / "service.key").read_text().strip()
        return serving(service_app(Moody(log=str(moody_log), **options), key=key), port)

    return serve
