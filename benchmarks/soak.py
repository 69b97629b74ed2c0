"""A steady load for ten minutes leaves nothing behind: memory, files, connections, the stream.

    python benchmarks/soak.py                         # 600 s at 300 requests a second
    python benchmarks/soak.py --seconds 20 --rate 100 # does it work

Gateway, dispatcher, broker and a mock expert are processes of their own, as in `answer_path.py`.
Every request is one new question that waits for its answer. Figures are read each second; the
first quarter fills caches that have a bound. The verdict compares the second quarter with the last
one. Writes `benchmarks/results/soak.json` where the run had its full length and rate.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import psutil
from answer_path import Stack, machine, running_stack
from mock_expert import make_query

from preceptor_clients.contract.errors import PreceptorError
from preceptor_clients.contract.schemas import PrefixSubmission
from preceptor_clients.http.gateway import GatewayClient
from preceptor_services.jobs.streams import JobStreams

SECONDS: Final = 600
RATE: Final = 300
MOST_GROWTH_MB: Final = 32.0
"""Allocators return memory late, so a little more at the end is no leak."""
MOST_MORE: Final = 10
"""Files or connections more at the end: a pool may open a few."""
RESULT: Final = Path(__file__).parent / "results" / "soak.json"

Sample = dict[str, float]


async def ask(client: GatewayClient, number: int, ends: Counter[str]) -> None:
    """One question of its own, counted by how it ended."""
    query = make_query(number)
    submission = PrefixSubmission(idempotency_key=f"soak-{number}", query=query)
    try:
        [outcome] = await client.logprobs("mock", [submission], timeout_s=60.0)
        ends["answered" if outcome.answer is not None else "failed"] += 1
    except PreceptorError as error:
        ends[error.code] += 1


def sample(pids: Mapping[str, int], depth: int, waiting: int) -> Sample:
    """Memory, files and connections of each process, and the jobs on the stream."""
    figures: Sample = {"jobs on the stream": depth, "requests under way": waiting}
    for name, pid in pids.items():
        process = psutil.Process(pid)
        figures[f"{name} memory MB"] = process.memory_info().rss / 2**20
        figures[f"{name} files"] = process.num_fds()
        figures[f"{name} connections"] = len(process.net_connections())
    return figures


async def load(stack: Stack, seconds: int, rate: int) -> tuple[list[Sample], Counter[str]]:
    """The samples of every second, and how the questions ended."""
    ends: Counter[str] = Counter()
    samples: list[Sample] = []
    running: set[asyncio.Task[None]] = set()
    queue = JobStreams.connect(stack.broker)
    gateway = stack.gateway
    number, began = 0, time.monotonic()
    async with GatewayClient(gateway.url, gateway.key, max_concurrency=4 * rate) as client:
        while (now := time.monotonic() - began) < seconds:
            # As many as are due: a pause of the machine is made up for, as real callers would.
            while number < now * rate:
                task = asyncio.create_task(ask(client, number, ends))
                running.add(task)
                task.add_done_callback(running.discard)
                number += 1
            if now >= len(samples):
                depth = await queue.depth("mock")
                samples.append(sample(stack.pids, depth, len(running)))
            await asyncio.sleep(0.01)
        await asyncio.gather(*running)
        await asyncio.sleep(2.0)
        samples.append(sample(stack.pids, await queue.depth("mock"), len(running)))
    await queue.aclose()
    return samples, ends


def verdict(samples: Sequence[Sample], ends: Counter[str]) -> dict[str, Any]:
    """What grew from the second quarter to the last, and whether that is too much."""
    quarter = max(1, (len(samples) - 1) // 4)
    early, late = samples[quarter : 2 * quarter] or samples[:1], samples[-1 - quarter : -1]
    growth = {
        name: statistics.median(s[name] for s in late) - statistics.median(s[name] for s in early)
        for name in samples[0]
    }
    faults = [f"{name} grew by {more:.0f}" for name, more in growth.items() if _is_leak(name, more)]
    if samples[-1]["jobs on the stream"]:
        faults.append(f"{samples[-1]['jobs on the stream']:.0f} jobs are left on the stream")
    faults += [f"{n} questions ended as {end}" for end, n in ends.items() if end != "answered"]
    return {"growth": growth, "last": samples[-1], "faults": faults, "passed": not faults}


def _is_leak(name: str, more: float) -> bool:
    if name.endswith("memory MB"):
        return more > MOST_GROWTH_MB
    return name.endswith(("files", "connections")) and more > MOST_MORE


async def soak(seconds: int, rate: int) -> dict[str, Any]:
    """The whole run."""
    async with running_stack() as stack:
        samples, ends = await load(stack, seconds, rate)
    found = verdict(samples, ends)
    return {"seconds": seconds, "rate": rate, "ends": dict(ends), "machine": machine(), **found}


def main() -> None:
    """Prints the verdict; ends with 1 where something grew or was not answered."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=SECONDS)
    parser.add_argument("--rate", type=int, default=RATE)
    options = parser.parse_args()
    result = asyncio.run(soak(options.seconds, options.rate))
    print(json.dumps(result, indent=1))
    if (options.seconds, options.rate) == (SECONDS, RATE):
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
    raise SystemExit(0 if result["passed"] else 1)


if __name__ == "__main__":
    main()
