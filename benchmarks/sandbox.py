"""What a sandboxed run of a short program costs, beside what it is compared with, in one run.

    python benchmarks/sandbox.py --seconds 5 --out benchmarks/results/sandbox.json

Three ways run the same program, which adds two numbers, in turns, so that a change of the machine's
load meets them all: a bare interpreter start (`python -I -S`, nothing else), one `subprocess.run`
for each test as trainers commonly do it (a temporary folder, the file written, the default
interpreter), and each rung that this machine offers. Then two workers of each run side by side.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from preceptor_services.sandbox.command import Command, Sandbox
from preceptor_services.sandbox.isolation import IsolationFailed
from preceptor_services.sandbox.ladder import RUNGS, open_sandbox

PROGRAM = "a, b = map(int, input().split())\nprint(a + b)\n"
INPUT, OUTPUT = b"20 22\n", b"42\n"
COMPARED = ("namespaces", "bubblewrap", "landlock", "gvisor", "process")
WORKERS = 2


def bare_start() -> bytes:
    """The least that any way with a fresh interpreter costs."""
    command = [sys.executable, "-I", "-S", "-c", PROGRAM]
    return subprocess.run(command, input=INPUT, capture_output=True, check=True).stdout


def one_subprocess() -> bytes:
    """As trainers commonly run one test: no walls."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "main.py"
        path.write_text(PROGRAM)
        command = [sys.executable, str(path)]
        done = subprocess.run(
            command, input=INPUT, capture_output=True, timeout=30, cwd=folder, check=True
        )
        return done.stdout


def in_sandbox(box: Sandbox) -> Callable[[], bytes]:
    command = Command(files={"main.py": PROGRAM}, stdin=INPUT)
    return lambda: box.execute(command).stdout


def alternate(ways: dict[str, Callable[[], bytes]], seconds: float) -> dict[str, list[float]]:
    """Milliseconds of each run of each way; the ways take turns."""
    for way in ways.values():
        assert way() == OUTPUT
    taken: dict[str, list[float]] = {name: [] for name in ways}
    end = time.perf_counter() + seconds * len(ways)
    while time.perf_counter() < end or min(map(len, taken.values())) < 10:
        for name, way in ways.items():
            started = time.perf_counter()
            found = way()
            taken[name].append((time.perf_counter() - started) * 1000)
            assert found == OUTPUT
    return taken


def side_by_side(ways: list[Callable[[], bytes]], seconds: float) -> float:
    """Runs a second of several workers at once."""
    counts = [0] * len(ways)
    end = time.perf_counter() + seconds

    def work(number: int) -> None:
        while time.perf_counter() < end:
            assert ways[number]() == OUTPUT
            counts[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(ways))]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - started)


def open_all(rung: str) -> list[Sandbox]:
    return [open_sandbox(rung, slot=slot) for slot in range(WORKERS)]


def measure(seconds: float) -> dict[str, Any]:
    boxes: dict[str, list[Sandbox]] = {}
    refused: dict[str, str] = {}
    for rung in COMPARED:
        assert rung in RUNGS
        try:
            boxes[rung] = open_all(rung)
        except IsolationFailed as error:
            refused[rung] = str(error)
    ways = {"bare start": bare_start, "one subprocess.run": one_subprocess}
    ways |= {rung: in_sandbox(opened[0]) for rung, opened in boxes.items()}
    taken = alternate(ways, seconds)
    rates = {"bare start": side_by_side([bare_start] * WORKERS, seconds)}
    rates["one subprocess.run"] = side_by_side([one_subprocess] * WORKERS, seconds)
    for rung, opened in boxes.items():
        rates[rung] = side_by_side([in_sandbox(box) for box in opened], seconds)
    described = {rung: opened[0].describe() for rung, opened in boxes.items()}
    for opened in boxes.values():
        for box in opened:
            box.stop()
    bare = statistics.median(taken["bare start"])
    return {
        "ways": {name: row(times, bare, rates[name]) for name, times in taken.items()},
        "refused": refused,
        "isolation": described,
        "workers": WORKERS,
        "cpus": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "architecture": platform.machine(),
    }


def row(times: list[float], bare: float, rate: float) -> dict[str, Any]:
    p50 = statistics.median(times)
    return {
        "p50_ms": round(p50, 2),
        "p99_ms": round(statistics.quantiles(times, n=100)[98], 2),
        "p50_over_bare_start_ms": round(p50 - bare, 2),
        "runs_a_second": round(rate, 1),
        "timed_runs": len(times),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each way and measurement")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    text = json.dumps(measure(options.seconds), indent=1)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
