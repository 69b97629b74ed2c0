"""What the tests of the dispatcher say and wait for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
from moody import FINGERPRINT

from preceptor_clients.contract.schemas import (
    Message,
    PrefixQuery,
    PrefixSubmission,
    Prompt,
    WantedWeights,
)


def query(mood: str, number: int = 0, **fields: Any) -> PrefixQuery:
    """A question of one token, in the mood that the expert is to be in."""
    return PrefixQuery(
        prompt=Prompt(messages=(Message(role="user", content=mood),)),
        response_ids=np.array([number % 90, number // 90]),
        vocab_fingerprint=FINGERPRINT,
        top_k=4,
        **fields,
    )


def submission(key: str, asked: PrefixQuery) -> PrefixSubmission:
    """The question under the caller's own key."""
    return PrefixSubmission(idempotency_key=key, query=asked)


def noted(log: Path) -> list[str]:
    """The lines that the expert has left."""
    return log.read_text().splitlines() if log.exists() else []


async def until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Returns when `condition()` is true."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.02)


def wanted(version: str) -> WantedWeights:
    """Exactly this version."""
    return WantedWeights(mode="exact", version=version)


@contextlib.asynccontextmanager
async def bare_server(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncGenerator[str]:
    """A TCP server whose connections end with it: its address."""
    handlers: list[asyncio.Task[None]] = []

    async def answer_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await answer(reader, writer)
        finally:
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.append(asyncio.create_task(answer_and_close(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        # Otherwise one that is still open would be left to the collector, in another test.
        for handler in handlers:
            handler.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)
