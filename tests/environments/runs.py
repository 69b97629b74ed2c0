"""Runs of `preceptor train` and servers beside them, each a process that ends with its test."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from preceptor_trainer.run.watching.metrics_log import read_metrics

Process = subprocess.Popen[bytes]


@dataclass(eq=False)
class Processes:
    """What a test started, each in a group of its own."""

    started: list[Process] = field(default_factory=list[Process])

    def start(
        self,
        words: Sequence[str | Path],
        folder: Path,
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> Process:
        """Starts one."""
        with log.open("ab") as file:
            process = subprocess.Popen(
                words,
                cwd=folder,
                env=None if environment is None else {**os.environ, **environment},
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def end(self) -> None:
        """Ends all."""
        for process in self.started:
            kill(process)


def kill(process: Process) -> None:
    """Ends a process and its group at once."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_for(is_so: Callable[[], bool], seconds: float = 300) -> None:
    """Until something is so."""
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.2)


def free_port() -> int:
    """A port that nothing listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@dataclass(eq=False)
class Training:
    """One run of a file, which may be started several times."""

    folder: Path
    processes: Processes

    @property
    def run_dir(self) -> Path:
        """Where the run writes."""
        return self.folder / "runs" / "run"

    @property
    def log(self) -> Path:
        """What it said."""
        return self.folder / "train.log"

    def write(self, text: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes the file and its data."""
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (self.folder / "train.jsonl").write_text(lines)
        (self.folder / "run.toml").write_text(text)

    def start(self, *more: str) -> Process:
        """Starts it."""
        file = str(self.folder / "run.toml")
        words = [sys.executable, "-m", "preceptor_clients.cli", "train", file, *more]
        return self.processes.start(words, self.folder, self.log)

    def finish(self, *more: str) -> None:
        """Runs it to its end."""
        assert self.start(*more).wait(900) == 0, self.log.read_text()[-2000:]

    def lines(self) -> list[dict[str, Any]]:
        """The metrics of its steps so far."""
        return list(read_metrics(self.run_dir)) if (self.run_dir / "metrics.jsonl").exists() else []

    def num_recorded(self) -> int:
        """Rollouts in the database of its gateway."""
        with contextlib.closing(sqlite3.connect(self.run_dir / "preceptor.db")) as database:
            return int(database.execute("select count(*) from rollouts").fetchone()[0])
