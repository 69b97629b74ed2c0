"""What the way of an answer costs: gateway, SQL, broker, dispatcher and expert as real processes.

    python benchmarks/answer_path.py --out benchmarks/results/answer_path.json

The expert answers at once. The same questions go to it directly first, so that the ratio stands
beside figures that depend on the machine and on what else it does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from uniform_expert import FINGERPRINT

from preceptor_clients.http import GatewayClient, ServiceClient
from preceptor_clients.schemas import LogprobsCall, Message, PrefixQuery, PrefixSubmission, Prompt
from preceptor_services.supervisor.supervisor import Supervisor

SETTINGS = """
[gateway]
port = 0
[experts.uniform]
url = "http://127.0.0.1:0"
key_file = "keys/uniform.key"
use = "uniform_expert:Uniform"
"""


def make_query(number: int, num_tokens: int = 4, top_k: int = 4) -> PrefixQuery:
    """One question; different numbers are different questions."""
    ids = (np.arange(num_tokens) + number) % 4096
    return PrefixQuery(
        prompt=Prompt(messages=(Message(role="user", content=str(number)),)),
        response_ids=ids,
        vocab_fingerprint=FINGERPRINT,
        top_k=top_k,
    )


async def timed(work: Callable[[], Awaitable[object]]) -> float:
    """Milliseconds that it took."""
    started = time.perf_counter()
    await work()
    return (time.perf_counter() - started) * 1000


def latency(samples_ms: Sequence[float]) -> dict[str, float]:
    """Median and 99th percentile."""
    ordered = sorted(samples_ms)
    return {
        "p50_ms": round(statistics.median(ordered), 2),
        "p99_ms": round(ordered[int(len(ordered) * 0.99)], 2),
    }


class Asker:
    """Asks the gateway questions that were never asked before."""

    def __init__(self, gateway: GatewayClient) -> None:
        self._gateway = gateway
        self._number = 0

    async def ask(self, count: int = 1, **shape: int) -> None:
        """One request with so many questions; every one must be answered."""
        first, self._number = self._number, self._number + count
        submissions = [
            PrefixSubmission(idempotency_key=f"q{n}", query=make_query(n, **shape))
            for n in range(first, first + count)
        ]
        outcomes = await self._gateway.logprobs("uniform", submissions, timeout_s=120)
        assert all(outcome.answer is not None for outcome in outcomes)

    async def rate(self, requests: int, in_flight: int, count: int = 1, **shape: int) -> float:
        """Questions a second with so many requests in flight."""
        slots = asyncio.Semaphore(in_flight)

        async def one() -> None:
            async with slots:
                await self.ask(count, **shape)

        took_ms = await timed(lambda: asyncio.gather(*(one() for _ in range(requests))))
        return requests * count / took_ms * 1000


async def measure(scale: int) -> dict[str, Any]:
    """All figures; `scale` multiplies the number of questions."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "preceptor.toml"
        config.write_text(SETTINGS)
        async with Supervisor(config) as supervisor:
            description = supervisor.description()
            settings = supervisor.settings
            key = settings.key_for("trainer").read_text().strip()
            expert_key = settings.experts["uniform"].key_file.read_text().strip()
            async with (
                GatewayClient(description["gateway"], key, max_concurrency=64) as gateway,
                ServiceClient(settings.experts["uniform"].url, expert_key) as expert,
            ):
                return await _figures(Asker(gateway), expert, scale)


async def _figures(asker: Asker, expert: ServiceClient, scale: int) -> dict[str, Any]:
    call = LogprobsCall(queries=(make_query(0),))
    direct = [await timed(lambda: expert.logprobs(call, 30)) for _ in range(50 * scale)]
    await asker.ask(64)
    through = [await timed(asker.ask) for _ in range(50 * scale)]
    singles = await asker.rate(200 * scale, in_flight=64)
    bundles = await asker.rate(10 * scale, in_flight=4, count=64)
    big = await asker.rate(4 * scale, in_flight=4, count=4, num_tokens=1024, top_k=64)
    return {
        "one question, directly at the expert": latency(direct),
        "one question, through everything": latency(through),
        "questions a second, one a request, 64 in flight": round(singles, 1),
        "questions a second, 64 a request, 4 in flight": round(bundles, 1),
        "top-64 positions a second, answers of 1,024 positions": round(big * 1024),
    }


def main() -> None:
    """Measures, prints and, where asked, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=int, default=4, help="multiplies the number of questions")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    load = os.getloadavg()[0]
    result = {
        "figures": asyncio.run(measure(arguments.scale)),
        "machine": {
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "load before": round(load, 1),
        },
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
