"""Verifiers' own `EnvServer` with a taskset of ours: trained in, and killed in the middle.

`make verifiers` makes an environment with the package and runs this; PRECEPTOR_VERIFIERS_PYTHON
names its Python.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from .runs import Process, Processes, Training, free_port, kill, wait_for

pytestmark = [pytest.mark.verifiers, pytest.mark.e2e]

PYTHON = Path(os.environ.get("PRECEPTOR_VERIFIERS_PYTHON", "none")).absolute()
SERVE = Path(__file__).parent / "count" / "serve.py"
RUN = """
[data]
train = "train.jsonl"
[environment]
use = "verifiers"
url = "URL"
[rollout]
n = 2
max_tokens = 150
turn_tokens = 20
max_turns = 3
[objective]
use = "grpo"
[optim]
prompts_per_step = 2
[run]
steps = 2
"""


@dataclass(eq=False)
class CountServer:
    """The taskset, served; rollouts of the chat program are processes with folders."""

    folder: Path
    processes: Processes
    port: int
    home: Path = Path()
    process: Process | None = None

    @property
    def url(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def start(self) -> None:
        # Of its own: a server that is killed leaves its rollouts' folders behind.
        self.home = self.folder / f"home-{len(self.processes.started)}"
        self.home.mkdir()
        self.process = self.processes.start(
            [PYTHON, SERVE, self.url], self.home, self.home / "server.log", self.variables
        )

    @property
    def variables(self) -> dict[str, str]:
        return {"HOME": str(self.home), "PYTHONPATH": ""}

    def rows(self) -> list[dict[str, object]]:
        said = subprocess.run(
            [PYTHON, SERVE], env={**os.environ, **self.variables}, capture_output=True, check=True
        )
        return [json.loads(line) for line in said.stdout.splitlines()]

    def num_rollouts(self) -> int:
        """Folders of rollouts that go on."""
        folder = self.home / ".cache" / "verifiers" / "runtimes" / "subprocess"
        return len(list(folder.iterdir())) if folder.is_dir() else 0

    def is_idle(self) -> bool:
        assert self.process is not None
        programs = psutil.Process(self.process.pid).children(recursive=True)
        return not programs and self.num_rollouts() == 0


@pytest.fixture
def server(tmp_path: Path, processes: Processes) -> CountServer:
    made = CountServer(folder=tmp_path, processes=processes, port=free_port())
    made.start()
    return made


def test_two_steps_are_trained_in_an_environment_of_verifiers(
    training: Training, server: CountServer
):
    training.write(RUN.replace("URL", server.url), server.rows())

    training.finish()

    lines = training.lines()
    assert [line["rollouts"] for line in lines] == [4, 4]
    assert all(0 < line["reward"] <= 2 for line in lines)
    assert "rollouts/failed" not in lines[0]
    wait_for(server.is_idle)


def test_killing_the_trainer_leaves_no_rollout_and_killing_the_server_loses_none(
    training: Training, server: CountServer
):
    training.write(RUN.replace("URL", server.url), server.rows())
    trainer = training.start("--set", "run.steps=50")
    wait_for(lambda: len(training.lines()) >= 1 and server.num_rollouts() > 0)

    assert server.process is not None
    kill(server.process)
    assert trainer.wait(600) != 0
    assert "attempts of a step were not answered" in training.log.read_text()
    before = len(training.lines())
    server.start()
    again = training.start("--set", "run.steps=50")
    wait_for(lambda: len(training.lines()) > before and server.num_rollouts() > 0)
    kill(again)

    assert training.num_recorded() >= 4 * before
    assert [line["step"] for line in training.lines()][:before] == list(range(1, before + 1))
    wait_for(server.is_idle)
