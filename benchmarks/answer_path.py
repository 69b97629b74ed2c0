"""What the way of an answer costs: gateway, SQL, broker, dispatcher and expert as real processes.

    python benchmarks/answer_path.py --out benchmarks/results/answer_path.json
    python benchmarks/answer_path.py --against ../older-checkout

The expert answers at once. The same questions go to it directly first, so that the ratio stands
beside figures that depend on the machine and on what else it does. `--against` measures another
checkout too, in turns with this one: then the ratios hold whatever else the machine does. Seconds
of CPU per question, of all processes but the client, depend on it least.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from uniform_expert import FINGERPRINT, uniform_answer

from preceptor_clients.contract import wire
from preceptor_clients.contract.deployment import (
    DeployedGateway,
    Deployment,
    local_service,
    to_toml,
)
from preceptor_clients.contract.schemas import (
    LogprobsCall,
    LogprobsReply,
    Message,
    PrefixQuery,
    PrefixResult,
    PrefixSubmission,
    Prompt,
)
from preceptor_clients.http.gateway import GatewayClient
from preceptor_clients.http.service import ServiceClient
from preceptor_services.supervisor.supervisor import Supervisor

DEPLOYMENT = Deployment(
    gateway=DeployedGateway(port=0),
    experts={"uniform": local_service("uniform", "uniform_expert:Uniform")},
)


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


def cpu_s(pids: Sequence[int]) -> float:
    """Seconds of CPU that these processes have used; NaN where the kernel does not tell."""
    if sys.platform != "linux":
        return float("nan")
    stats = (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids)
    return sum(int(stat[11]) + int(stat[12]) for stat in stats) / os.sysconf("SC_CLK_TCK")


async def measure(scale: int) -> dict[str, float]:
    """All figures; `scale` multiplies the number of questions."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "preceptor.toml"
        config.write_text(to_toml(DEPLOYMENT))
        async with Supervisor(config) as supervisor:
            description = supervisor.description()
            settings = supervisor.settings
            key = settings.key_for("trainer").read_text().strip()
            expert_key = settings.experts["uniform"].key_file.read_text().strip()
            pids = [child.pid for child in supervisor.children if child.pid is not None]
            async with (
                GatewayClient(description["gateway"], key, max_concurrency=64) as gateway,
                ServiceClient(settings.experts["uniform"].url, expert_key) as expert,
            ):
                return await _figures(Asker(gateway), expert, pids, scale)


async def _figures(
    asker: Asker, expert: ServiceClient, pids: Sequence[int], scale: int
) -> dict[str, float]:
    call = LogprobsCall(queries=(make_query(0),))
    direct = [await timed(lambda: expert.logprobs(call, 30)) for _ in range(25 * scale)]
    await asker.ask(64)
    await asyncio.gather(*(asker.ask() for _ in range(16)))
    used = cpu_s(pids)
    through = [await timed(asker.ask) for _ in range(25 * scale)]
    used_one = cpu_s(pids)
    singles = await asker.rate(128 * scale, in_flight=64)
    used_singles = cpu_s(pids)
    bundles = await asker.rate(8 * scale, in_flight=4, count=64)
    used_bundles = cpu_s(pids)
    big = await asker.rate(4 * scale, in_flight=4, count=4, num_tokens=1024, top_k=64)
    return {
        "one question, directly at the expert: p50 ms": latency(direct)["p50_ms"],
        "one question, through everything: p50 ms": latency(through)["p50_ms"],
        "one question, through everything: p99 ms": latency(through)["p99_ms"],
        "one question, through everything: CPU ms": 1000 * (used_one - used) / (25 * scale),
        "questions a second, one a request, 64 in flight": singles,
        "CPU ms a question, one a request, 64 in flight": 1000
        * (used_singles - used_one)
        / (128 * scale),
        "questions a second, 64 a request, 4 in flight": bundles,
        "CPU ms a question, 64 a request, 4 in flight": 1000
        * (used_bundles - used_singles)
        / (512 * scale),
        "top-64 positions a second, answers of 1,024 positions": big * 1024,
        **rendering(),
    }


def rendering() -> dict[str, float]:
    """Milliseconds to render one answer of 1,024 positions and 64 entries, and to read it."""
    answer = uniform_answer(make_query(0, num_tokens=1024, top_k=64))
    message = LogprobsReply(results=(PrefixResult(answer=answer),))
    figures: dict[str, float] = {}
    for name, media_type in (("frame", wire.FRAME), ("JSON", wire.JSON)):
        body = wire.render(message, media_type)
        figures[f"rendering 1,024 x 64 as {name}: ms"] = best_ms(wire.render, message, media_type)
        figures[f"reading 1,024 x 64 from {name}: ms"] = best_ms(
            wire.parse, LogprobsReply, body, media_type
        )
    return figures


def best_ms(work: Callable[..., object], *args: object) -> float:
    """CPU of the fastest of seven runs, since nothing but the machine makes one slower."""
    times: list[float] = []
    for _ in range(7):
        began = time.thread_time()
        work(*args)
        times.append(time.thread_time() - began)
    return 1000 * min(times)


def run_once(checkout: Path, scale: int) -> dict[str, float]:
    """The figures of a checkout, in processes of its own."""
    here = Path(__file__).resolve()
    folders = (checkout / "clients", checkout / "services", checkout / "trainer", here.parent)
    done = subprocess.run(
        [sys.executable, str(here), "--once", "--scale", str(scale)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(str(f.resolve()) for f in folders)},
        check=True,
        stdout=subprocess.PIPE,
    )
    return json.loads(done.stdout)


def medians(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    """Of each figure."""
    return {
        name: float(f"{statistics.median(one[name] for one in rounds):.4g}") for name in rounds[0]
    }


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    return {
        "cpu": ", ".join(sorted(models)) or platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "nice": os.nice(0),
        "load before": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    """Measures, prints and, where asked, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=int, default=2, help="multiplies the number of questions")
    parser.add_argument("--rounds", type=int, default=3, help="the median of so many runs is told")
    parser.add_argument("--against", type=Path, help="another checkout, measured in turns")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.once:
        print(json.dumps(asyncio.run(measure(arguments.scale))))
        return
    result: dict[str, Any] = {"machine": machine(), "rounds": arguments.rounds}
    checkouts = {"figures": Path(__file__).parents[1]}
    if arguments.against is not None:
        checkouts = {"before": arguments.against, **checkouts}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
    for _ in range(arguments.rounds):
        for name, checkout in checkouts.items():
            runs[name].append(run_once(checkout, arguments.scale))
    result |= {name: medians(figures) for name, figures in runs.items()}
    if "before" in result:
        result["now / before"] = {
            name: round(result["figures"][name] / before, 3)
            for name, before in result["before"].items()
        }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
