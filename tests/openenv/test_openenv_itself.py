"""OpenEnv's own server with an environment of its own `init`: trained in, and killed in the middle.

`make openenv` makes an environment with the package and runs this; PRECEPTOR_OPENENV_PYTHON names
its Python. The scaffold echoes a message and rewards its length, in one session at a time.
"""

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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from preceptor_trainer.run.metrics_log import read_metrics

pytestmark = [pytest.mark.openenv, pytest.mark.e2e]

PYTHON = Path(os.environ.get("PRECEPTOR_OPENENV_PYTHON", "none")).absolute()
RUN = """
[data]
train = "train.jsonl"
[environment]
url = "URL"
actions = "field"
action_field = "message"
observation_field = "echoed_message"
sessions = 4
[rollout]
n = 2
max_tokens = 150
turn_tokens = 20
max_turns = 2
[objective]
use = "grpo"
[optim]
prompts_per_step = 2
[run]
steps = 2
"""


@dataclass(eq=False)
class EchoServer:
    """The scaffold, served."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        words = [PYTHON, "-m", "uvicorn", "server.app:app", "--port", str(self.port)]
        self.process = subprocess.Popen(words, cwd=self.folder, start_new_session=True)
        wait_for(self.answers)

    def answers(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/health", timeout=5).is_success
        return False

    def kill(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def wait_for(is_so: Callable[[], bool], seconds: float = 300) -> None:
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.2)


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[EchoServer]:
    init = [PYTHON.parent / "openenv", "init", "echo_env"]
    subprocess.run(init, cwd=tmp_path, check=True, capture_output=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = EchoServer(folder=tmp_path / "echo_env", port=port)
    try:
        server.start()
        yield server
    finally:
        server.kill()


Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(tmp_path: Path, echo: EchoServer) -> Iterator[Start]:
    """Starts a run; it ends with the test."""
    trainers: list[subprocess.Popen[bytes]] = []

    def one(*more: str) -> subprocess.Popen[bytes]:
        trainers.append(started(tmp_path, echo, *more))
        return trainers[-1]

    yield one
    for trainer in trainers:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(trainer.pid, signal.SIGKILL)
        trainer.wait()


def started(folder: Path, server: EchoServer, *more: str) -> subprocess.Popen[bytes]:
    rows = [{"prompt": f"[{i}]->[{i},{i}]"} for i in range(4)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "run.toml").write_text(RUN.replace("URL", server.url))
    words = [sys.executable, "-m", "preceptor_clients.cli", "train", str(folder / "run.toml")]
    with (folder / "train.log").open("ab") as log:
        return subprocess.Popen([*words, *more], stdout=log, stderr=log, start_new_session=True)


def has_a_place(server: EchoServer) -> bool:
    """Whether the one session that the server allows is free."""
    probe = """
import asyncio, json, sys, websockets
async def main():
    async with websockets.connect(sys.argv[1]) as socket:
        await socket.send(json.dumps({"type": "reset", "data": {}}))
        print(json.loads(await socket.recv())["type"])
        await socket.send(json.dumps({"type": "close"}))
asyncio.run(main())
"""
    address = server.url.replace("http", "ws") + "/ws"
    done = subprocess.run([sys.executable, "-c", probe, address], capture_output=True, check=False)
    return done.stdout.strip() == b"observation"


def test_two_steps_are_trained_in_an_environment_of_openenv(tmp_path, echo, start):
    trainer = start()

    assert trainer.wait(900) == 0, (tmp_path / "train.log").read_text()[-2000:]
    lines = read_metrics(tmp_path / "runs" / "run")
    assert [line["rollouts"] for line in lines] == [4, 4]
    # Each of two echoes is rewarded by its length.
    assert all(line["reward"] > 0 for line in lines)
    assert "rollouts/failed" not in lines[0]
    wait_for(lambda: has_a_place(echo))


def test_killing_the_trainer_leaves_no_session_and_killing_the_server_loses_no_rollout(
    tmp_path, echo, start
):
    trainer = start("--set", "run.steps=50")
    run_dir = tmp_path / "runs" / "run"
    wait_for(lambda: len(read_metrics(run_dir)) >= 1 if (run_dir / "metrics.jsonl").exists() else 0)

    echo.kill()
    assert trainer.wait(600) != 0
    assert "attempts of a step were not answered" in (tmp_path / "train.log").read_text()
    before = len(read_metrics(run_dir))
    echo.start()
    again = start("--set", "run.steps=50")
    wait_for(lambda: len(read_metrics(run_dir)) > before)
    os.killpg(again.pid, signal.SIGKILL)
    again.wait()

    assert num_recorded(run_dir) >= 4 * before
    assert [line["step"] for line in read_metrics(run_dir)][:before] == list(range(1, before + 1))
    wait_for(lambda: has_a_place(echo))


def num_recorded(run_dir: Path) -> int:
    """Rollouts in the database of the run's gateway."""
    with contextlib.closing(sqlite3.connect(run_dir / "preceptor.db")) as database:
        return database.execute("select count(*) from rollouts").fetchone()[0]
