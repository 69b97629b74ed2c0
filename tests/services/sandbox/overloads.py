"""Overloads a sandbox in every way, many times; prints how late each ends, and memory as JSON.

    python -m overloads RUNG NUM_ROUNDS [KIND...]     from tests/services/sandbox

A process of its own, so that its memory is that of a service which only runs sandboxes.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from preceptor_services.sandbox.command import Command, CommandLimits, Execution, Sandbox
from preceptor_services.sandbox.isolation import IsolationFailed
from preceptor_services.sandbox.ladder import open_sandbox

WARM_UP = 3
"""Rounds after which memory counts."""
_TOLD = "import os, time\nos.write(3, b'%r\\n' % time.time())\n"
_IGNORES = (
    "import signal\n"
    "for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:\n"
    "    signal.signal(number, signal.SIG_IGN)\n"
)
_SPINS = (
    "last = 0.0\n"
    "while True:\n"
    "    used = time.process_time()\n"
    "    if used > last + 0.01:\n"
    "        last = used\n"
    "        os.write(3, b'%r\\n' % used)\n"
)
_FLOODS = "left = 10**9\nwhile left > 0: left -= os.write({}, b'a' * 65536)"


@dataclass(frozen=True)
class Overload:
    """A program, and what of its limits it reaches."""

    program: str
    ends: tuple[str, ...]
    """How it may end."""
    limits: dict[str, float] = field(default_factory=dict[str, float])
    reaches: str = ""
    """The limit, where it does not reach it at once; it tells descriptor 3 how it gets there."""


OVERLOADS = {
    "300 forks": Overload(
        "for n in range(300):\n"
        "    os.write(3, b'%r\\n' % time.time())\n"
        "    os.fork() or time.sleep(600)",
        ("exit",),
        {"processes": 16},
        "processes",
    ),
    "600 MB": Overload("held = bytearray(600 << 20)", ("exit",)),
    "600 MB of four processes": Overload(
        "for _ in range(4):\n"
        "    if os.fork() == 0:\n"
        "        held = []\n"
        "        for _ in range(150):\n"
        "            held.append(b'x' * (1 << 20))\n"
        "            os.write(3, b'%r\\n' % time.time())\n"
        "        time.sleep(600)\n"
        "os.wait()",
        ("memory",),
        {"timeout_s": 120.0, "files_mb": 8},
        "memory_mb",
    ),
    "a file of 10 GB": Overload(
        "f = open('f', 'wb')\nfor _ in range(10_240): f.write(b'a' * (1 << 20))",
        ("exit", "files"),
        {"files_mb": 8},
    ),
    "1 GB of output": Overload(_FLOODS.format(1), ("output",)),
    "1 GB of errors": Overload(_FLOODS.format(2), ("output",)),
    "1 GB of results": Overload(_FLOODS.format(3), ("output", "files", "exit")),
    "endless work": Overload(_SPINS, ("cpu_time",), reaches="cpu_seconds"),
    "endless work without signals": Overload(
        _IGNORES + _SPINS, ("cpu_time",), reaches="cpu_seconds"
    ),
    "sleep": Overload("time.sleep(600)", ("wall_time",), {"timeout_s": 1.2}, "timeout_s"),
    "sleep without signals": Overload(
        _IGNORES + "while True: time.sleep(600)", ("wall_time",), {"timeout_s": 1.2}, "timeout_s"
    ),
    "a daemon": Overload(
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    os.fork() or time.sleep(600)\n"
        "    time.sleep(600)",
        ("exit",),
    ),
}
_LIMITS: dict[str, Any] = {"cpu_seconds": 1.0, "memory_mb": 256, "files_mb": 64, "processes": 32}


def overrun(box: Sandbox, overload: Overload) -> tuple[Execution, float]:
    """How a run ended, and seconds that it took beyond what its limit allows."""
    limits = CommandLimits(**_LIMITS | overload.limits)
    found = box.execute(Command(files={"main.py": _TOLD + overload.program}), limits)
    ended = time.time()
    begun, *told = found.result[: 1 << 16].split(b"\n")[:-1]
    match overload.reaches:
        case "cpu_seconds":
            return found, float(told[-1]) - limits.cpu_seconds
        case "timeout_s":
            return found, ended - float(begun) - limits.timeout_s
        case "processes":
            return found, ended - float(told[-1])
        case "memory_mb":  # which it may have reached later, and ended before it could say so
            reached = sorted(map(float, told))[: limits.memory_mb]
            return found, ended - max(reached, default=ended)
        case _:
            return found, ended - float(begun)


def time_of_an_end(box: Sandbox) -> float:
    """The same for a program that ends by itself, which no limit has to end."""
    found = box.execute(Command(files={"main.py": _TOLD}))
    return time.time() - float(found.result)


def resident_mb() -> dict[str, float]:
    """Memory of the process that runs sandboxes, and of those that stay between runs."""
    me = psutil.Process()
    keepers = sum(one.memory_info().rss for one in me.children(recursive=True))
    return {"service": me.memory_info().rss / (1 << 20), "keepers": keepers / (1 << 20)}


def peak_mb() -> float:
    """Largest memory since the last call; since the start, where the kernel does not forget it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    [peak] = [line.split()[1] for line in lines if line.startswith("VmHWM")]
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return int(peak) / 1024


def report(box: Sandbox, kinds: Sequence[str], num_rounds: int) -> dict[str, Any]:
    """All kinds in turn, so that each run follows one of another kind."""
    num_processes = len(psutil.Process().children(recursive=True))
    overruns: dict[str, list[float]] = {kind: [] for kind in kinds}
    wrong: list[str] = []
    ends: list[float] = []
    peak_mb()
    before, warm_peak = resident_mb(), 0.0
    for number in range(WARM_UP + num_rounds):
        for kind in kinds:
            found, late = overrun(box, OVERLOADS[kind])
            overruns[kind].append(late)
            left = len(psutil.Process().children(recursive=True)) - num_processes
            if found.ended_by not in OVERLOADS[kind].ends or left:
                wrong.append(f"{kind}: ended by {found.ended_by}, {left} processes left")
        ends.append(time_of_an_end(box))
        if number + 1 == WARM_UP:
            before, warm_peak = resident_mb(), peak_mb()
    return {
        "wrong": wrong,
        "overrun_s": {kind: statistics.median(late) for kind, late in overruns.items()},
        "end_s": statistics.median(ends),
        "output_mb": CommandLimits().output_bytes / (1 << 20),
        "before_mb": before,
        "after_mb": resident_mb(),
        "peak_mb": {"warm-up": warm_peak, "after": peak_mb()},
    }


def main() -> None:
    rung, num_rounds, *kinds = sys.argv[1:]
    try:
        box = open_sandbox(rung, slot=6)
    except IsolationFailed as error:
        sys.stdout.write(json.dumps({"refused": str(error)}))
        return
    found = report(box, kinds or list(OVERLOADS), int(num_rounds))
    box.stop()
    sys.stdout.write(json.dumps({"load": os.getloadavg()[0], **found}, indent=1))


if __name__ == "__main__":
    main()
