"""How long an own model, own rows and an own judge wait for the first step of their run.

    python benchmarks/first_step.py

The three files are those of `docs/how-to/train-your-own-model.md`, the model has a million random
parameters, and every other key has its default. Seconds are counted from the command to the end of
the first step: the start of all services and the evaluation before are in them. On a machine that
does other work too, the CPU seconds say more: they are those of the command and all its services,
to the end of the run, which is ended right after its first step.

Writes `benchmarks/results/first_step.json`.
"""

from __future__ import annotations

import json
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Final

import psutil
import typer
from quickstart import machine

HERE: Final = Path(__file__).parent
PAGE: Final = HERE.parent / "docs" / "how-to" / "train-your-own-model.md"
LONGEST_S: Final = 600.0
"""Then the run is given up."""


def main(
    rounds: Annotated[int, typer.Option()] = 3,
    out: Annotated[Path, typer.Option()] = HERE / "results" / "first_step.json",
) -> None:
    """Measures and writes."""
    sys.path.insert(0, str(HERE.parent / "tests" / "own_model"))
    import tiny  # the tests' small models

    found: list[float] = []
    loads: list[float] = []
    cpu: list[float] = []
    written = 0
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            tiny.llama(folder / "model")
            written = write_files(folder)
            loads.append(round(psutil.getloadavg()[0], 1))
            cpu_began = cpu_of_children()
            found.append(round(until_first_step(folder), 1))
            cpu.append(round(cpu_of_children() - cpu_began, 1))
        print(f"{found[-1]} s, CPU {cpu[-1]} s, at a load of {loads[-1]}", flush=True)
    result = {
        "command": "python benchmarks/first_step.py",
        "machine": machine(),
        "lines of the user": written,
        "parameters": "1 million",
        "seconds to the end of the first step": found,
        "CPU seconds of the command and its services": cpu,
        "load of the machine before": loads,
    }
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written: {out}")


def cpu_of_children() -> float:
    """CPU seconds of all processes that have ended, with theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def write_files(folder: Path) -> int:
    """The user's files; returns the lines that are written by hand."""
    hand = 0
    for name in ("run.toml", "judge.py"):
        match = re.search(
            rf'^```\w+ title="{re.escape(name)}"\n(.*?)^```$', PAGE.read_text(), re.M | re.S
        )
        assert match is not None, name
        (folder / name).write_text(match[1])
        hand += sum(bool(line.strip()) for line in match[1].splitlines())
    for name, first, count in (("train.jsonl", 0, 32), ("dev.jsonl", 100, 8)):
        rows = [
            {"prompt": f"What is {i} * 12?", "answer": 12 * i} for i in range(first, first + count)
        ]
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return hand


def until_first_step(folder: Path) -> float:
    """Seconds until the first step is in the metrics; the run is then ended in order."""
    began = time.monotonic()
    command = [sys.executable, "-m", "preceptor_clients.cli", "train", "run.toml"]
    with (folder / "said.log").open("w") as log:
        run = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    metrics = folder / "runs" / "run" / "metrics.jsonl"
    try:
        while not (metrics.exists() and metrics.read_text()):
            assert run.poll() is None, (folder / "said.log").read_text()
            assert time.monotonic() - began < LONGEST_S, (folder / "said.log").read_text()
            time.sleep(0.1)
        return time.monotonic() - began
    finally:
        run.send_signal(signal.SIGTERM)
        run.wait(60)


if __name__ == "__main__":
    typer.run(main)
