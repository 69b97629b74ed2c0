"""The dispatcher as a process: one worker per service of the gateway.

The list of services is requested from the gateway periodically, so that an expert added at run time
is served without a restart. Keys of services are read from the files that the gateway names.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from preceptor_clients.contract.deployment import Deployment
from preceptor_clients.contract.errors import PreceptorError
from preceptor_clients.http.addresses import ANYWHERE, AddressPolicy
from preceptor_clients.http.connection import NO_RETRY
from preceptor_clients.http.gateway import GatewayClient
from preceptor_clients.http.service import ServiceClient
from preceptor_clients.kit.garbage import collect_rarely
from preceptor_services.dispatcher.worker import ServiceWorker, WorkerConfig
from preceptor_services.jobs.messages import Directory, ServiceAddress
from preceptor_services.jobs.streams import JobStreams
from preceptor_services.kit.addresses import address_policy
from preceptor_services.kit.settings import broker_url, read_secret

_DIRECTORY_S: Final = 5.0
_UNREACHED_S: Final = 0.3
_RESTART_S: Final = 1.0
_log = logging.getLogger("preceptor.dispatcher")


@dataclass
class Dispatcher:
    """Serves every service of one gateway."""

    gateway: GatewayClient
    queue: JobStreams
    name: str
    config: WorkerConfig
    policies: Mapping[bool, AddressPolicy] = field(
        default_factory=lambda: {False: ANYWHERE, True: ANYWHERE}
    )
    """Allowed addresses, by whether the service was added at run time."""
    on_answer: Callable[[], None] = lambda: None
    """Called after each answer of the gateway to the question which services there are."""
    _workers: dict[str, ServiceWorker] = field(default_factory=dict[str, ServiceWorker])
    _addresses: dict[str, ServiceAddress] = field(default_factory=dict[str, ServiceAddress])
    """The address that each service's worker calls."""

    async def run(self, stopping: asyncio.Event) -> None:
        """Serves until `stopping` is set, then finishes or returns the held jobs."""
        async with asyncio.TaskGroup() as tasks:
            following = tasks.create_task(
                _forever("directory", lambda: self._follow_directory(tasks, stopping))
            )
            cancelling = tasks.create_task(_forever("cancellations", self._hear_cancellations))
            await stopping.wait()
            following.cancel()
            cancelling.cancel()
            for worker in self._workers.values():
                worker.stop()

    async def _follow_directory(self, tasks: asyncio.TaskGroup, stopping: asyncio.Event) -> None:
        while True:
            try:
                directory = await self.gateway.call(
                    "GET", "/v1/internal/services", reply=Directory, timeout_s=10.0
                )
            except PreceptorError as error:
                _log.warning("the gateway does not answer: %s", error.detail)
                await asyncio.sleep(_UNREACHED_S)
                continue
            self.on_answer()
            named = {address.name for address in directory.services}
            for name in self._workers.keys() - named:
                self._end(name)
            for address in directory.services:
                if self._addresses.get(address.name) != address:
                    await self._begin(tasks, address, stopping)
            await asyncio.sleep(_DIRECTORY_S)

    async def _begin(
        self, tasks: asyncio.TaskGroup, address: ServiceAddress, stopping: asyncio.Event
    ) -> None:
        try:
            key = await asyncio.to_thread(read_secret, Path(address.key_file))
            # The worker decides about retries; there is one connection per concurrent call.
            client = ServiceClient(
                address.url,
                key,
                max_concurrency=256,
                retry=NO_RETRY,
                addresses=self.policies[address.added_at_runtime],
            )
        except (OSError, ValueError) as error:
            # The other services are still served; this one is tried again at the next refresh.
            _log.error("%s is not served: %s", address.name, error)
            return
        worker = ServiceWorker(
            address.name,
            queue=self.queue,
            gateway=self.gateway,
            client=client,
            dispatcher=self.name,
            config=self.config,
        )

        async def serve() -> None:
            async with client:
                while not stopping.is_set() and self._workers.get(address.name) is worker:
                    await _guarded(f"worker of {address.name}", worker.run)

        if address.name in self._workers:  # the service has a new address
            self._end(address.name)
        self._workers[address.name], self._addresses[address.name] = worker, address
        tasks.create_task(serve(), name=f"worker of {address.name}")
        _log.info("serving %s at %s", address.name, address.url)

    def _end(self, name: str) -> None:
        self._workers.pop(name).stop()
        self._addresses.pop(name, None)
        _log.info("%s is no longer served", name)

    async def _hear_cancellations(self) -> None:
        async for job_id in self.queue.cancels():
            for worker in self._workers.values():
                worker.cancel(job_id)


async def _forever(name: str, work: Callable[[], Awaitable[None]]) -> None:
    while True:
        await _guarded(name, work)


async def _guarded(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Runs a part of the process; its failure is logged and does not end the others."""
    try:
        await work()
    except Exception:
        _log.exception("the %s failed", name)
        await asyncio.sleep(_RESTART_S)


async def run_dispatcher(
    settings: Deployment,
    config: WorkerConfig,
    url: str | None = None,
    *,
    alive_file: Path | None = None,
) -> None:
    """Runs until SIGTERM or SIGINT.

    Args:
        settings: The deployment; broker, gateway and the dispatcher's key are read.
        config: Leases and timeouts.
        url: URL of the gateway, if it is not on this machine.
        alive_file: Touched after each answer of the gateway, for a health check from outside: a
            dispatcher listens nowhere.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    key = read_secret(settings.key_for("dispatcher"))
    queue = JobStreams.connect(broker_url(settings.gateway))
    collect_rarely()
    name = f"{socket.gethostname()}-{os.getpid()}"
    async with GatewayClient(url or settings.gateway.url, key, max_concurrency=32) as gateway:
        try:
            policies = {
                runtime: address_policy(settings, added_at_runtime=runtime)
                for runtime in (False, True)
            }
            dispatcher = Dispatcher(gateway, queue, name, config, policies)
            if alive_file is not None:
                dispatcher.on_answer = alive_file.touch
            await dispatcher.run(stopping)
        finally:
            await queue.aclose()
