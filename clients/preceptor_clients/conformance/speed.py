"""Measures the speed of answers. It is reported and never fails."""

from __future__ import annotations

import statistics
import time
from typing import Final

from preceptor_clients.conformance.subject import Subject

_CALLS: Final = 3
_QUERIES: Final = 8
_TOKENS: Final = 64


async def check_speed(subject: Subject) -> str:
    """How long a call of typical size takes."""
    capabilities, limits = subject.info.capabilities, subject.info.limits
    room = min(capabilities.max_context or 4096, limits.max_batch_tokens)
    prompt, tokens = min(32, room // 4), max(1, min(_TOKENS, room // 4))
    queries = [
        subject.query(subject.ids(tokens, 60 + i), prompt=subject.prompt(prompt, seed=61))
        for i in range(min(_QUERIES, limits.max_batch))
    ]
    took_s = list[float]()
    for _ in range(_CALLS):
        start = time.perf_counter()
        await subject.ask(*queries)
        took_s.append(time.perf_counter() - start)
    median_s = statistics.median(took_s)
    positions = len(queries) * tokens
    return (
        f"{positions / median_s:,.0f} positions/s; {len(queries)} queries of {tokens} tokens, "
        f"top-{subject.top_k}, in {median_s * 1000:.0f} ms"
    )
