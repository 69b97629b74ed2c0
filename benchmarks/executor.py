"""How many attempts a second the executor grades, through its own service class.

    python benchmarks/executor.py --seconds 10 --workers 2 --out benchmarks/results/executor.json

Each attempt is one expression on eight cases, all different programs, so that nothing could be
cached; a tenth of them fail by an exception.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

from preceptor_clients.contract.schemas import FeedbackQuery, Message, Prompt
from preceptor_services.feedback.executor import Executor

BATCH = 64
CASES = [{"input": [n, 3, 1, 2], "expected": sorted([n, 3, 1, 2])} for n in range(8)]
PAYLOAD: dict[str, Any] = {"shown": CASES[:4], "hidden": CASES[4:]}


def make_query(number: int) -> FeedbackQuery:
    """One attempt; every tenth divides by zero, every second of the others is right."""
    tail = "//0" if number % 10 == 9 else f"+{number % 2}"
    response = f"[v{tail} for v in sorted(x) if {number}+1]"
    return FeedbackQuery(
        rollout_id=f"r{number}",
        prompt=Prompt(messages=(Message(role="user", content="?"),)),
        response_ids=[1],
        response_text=response,
        finish_reason="stop",
        payload_sha256="0" * 64,
        payload=PAYLOAD,
    )


async def measure(seconds: float, workers: int) -> dict[str, Any]:
    """Grades whole batches for about `seconds`, after one that does not count."""
    executor = Executor(workers=workers)
    await executor.start()
    await executor.feedback([make_query(n) for n in range(BATCH)])
    done, solved = 0, 0
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        answers = await executor.feedback([make_query(done + n) for n in range(BATCH)])
        solved += sum(a.items[0].score == 1.0 for a in answers if not isinstance(a, Exception))
        done += BATCH
    elapsed = time.perf_counter() - started
    isolation = executor.describe_isolation()
    await executor.stop()
    return {
        "attempts_per_second": round(done / elapsed, 1),
        "cases_per_second": round(done * len(CASES) / elapsed, 1),
        "attempts": done,
        "solved": solved,
        "workers": workers,
        "cpus": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
        "isolation": isolation,
        "python": platform.python_version(),
        "kernel": platform.release(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    text = json.dumps(asyncio.run(measure(options.seconds, options.workers)), indent=1)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
