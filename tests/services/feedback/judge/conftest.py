"""A scripted judge over a real socket, and the source in front of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import uvicorn

from preceptor_services.feedback.judge.source import Judge

from .scripted import JudgeServer, Obedient, by_script

CRITERIA = [
    {"name": "right", "question": "Is the number right?", "weight": 3.0},
    {"name": "short", "question": "Is it {short}?"},
]


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Any]]:
    """Starts a `JudgeServer` on loopback; an `Obedient` one unless told otherwise."""
    running: list[tuple[JudgeServer, uvicorn.Server, asyncio.Task[None]]] = []

    async def start(reply: Callable[[dict[str, Any]], Any] | None = None, **fields: Any) -> Any:
        fake = JudgeServer(reply or by_script(Obedient()), **fields)
        config = uvicorn.Config(fake.app(), port=0, log_level="error", ws="none", lifespan="off")
        server = uvicorn.Server(config)
        running.append((fake, server, asyncio.create_task(server.serve())))
        while not server.started:
            await asyncio.sleep(0.01)
        fake.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        return fake

    yield start
    for fake, server, task in running:
        fake.open.set()
        server.should_exit = True
        await task


@pytest.fixture
async def judge_of() -> AsyncIterator[Callable[..., Judge]]:
    """Makes the source in front of a server; it is stopped at the end."""
    made: list[Judge] = []

    def make(server: Any, **options: Any) -> Judge:
        judge = Judge(**{"url": server.url, "model": "m", "criteria": CRITERIA} | options)
        made.append(judge)
        return judge

    yield make
    for judge in made:
        await judge.stop()
