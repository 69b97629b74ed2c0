"""Nothing that a directory names ends the dispatcher, and the gateway's own server has bounds."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from preceptor_services.dispatcher import process
from preceptor_services.dispatcher.process import Dispatcher
from preceptor_services.dispatcher.worker import WorkerConfig
from preceptor_services.jobs.messages import Directory, ServiceAddress


class OneDirectory:
    """A gateway that names some services, and fails in between in ways of its own."""

    def __init__(self, *services: ServiceAddress) -> None:
        self.directory = Directory(services=services)
        self.asked = 0

    async def call(self, *words: Any, **options: Any) -> Directory:
        self.asked += 1
        if self.asked == 2:
            raise RuntimeError("a fault of ours")
        return self.directory


class QuietQueue:
    async def cancels(self) -> AsyncIterator[str]:
        await asyncio.sleep(3600)
        yield ""


@pytest.mark.parametrize("url", ["http://0177.0.0.1:1", "http://", "nonsense", "http://a:99999"])
async def test_an_address_that_is_none_leaves_the_dispatcher_serving_and_obedient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    for name in ("_DIRECTORY_S", "_RESTART_S"):
        monkeypatch.setattr(process, name, 0.01)
    (tmp_path / "bad.key").write_text("k" * 40)
    bad = ServiceAddress(name="bad", url=url, key_file=str(tmp_path / "bad.key"))
    gateway: Any = OneDirectory(bad)
    queue: Any = QuietQueue()
    stopping = asyncio.Event()

    task = asyncio.create_task(Dispatcher(gateway, queue, "d", WorkerConfig()).run(stopping))
    async with asyncio.timeout(10):
        while gateway.asked < 4:
            await asyncio.sleep(0.01)
        stopping.set()
        await task

    assert task.exception() is None


async def test_the_gateways_own_process_refuses_a_head_without_end(
    make_deployment: Callable[..., Any],
) -> None:
    async with make_deployment(own_process=True) as deployment:
        port = deployment.settings.gateway.port

        def said() -> bytes:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                with contextlib.suppress(ConnectionError):
                    connection.sendall(b"GET /livez HTTP/1.1\r\nx: " + b"y" * (1 << 20))
                with contextlib.suppress(ConnectionError):
                    return connection.recv(1 << 16)
            return b""

        answer = await asyncio.to_thread(said)
        assert await deployment.client.ready()

    assert answer == b"" or b"431" in answer
