"""What the tests of the dispatcher say and wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
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
