"""OpenEnv's own server with environments of its `init` and of its `import`: trained in, and killed.

`make openenv` makes an environment with the package and runs this; PRECEPTOR_OPENENV_PYTHON names
its Python. The scaffold echoes a message and rewards its length. What is imported is an environment
of verifiers, in the form that it had before its version 0.4. Both take one session at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from preceptor_trainer.environments.openenv.tasks import read_tasks

from .runs import Process, Processes, Training, free_port, kill, wait_for

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
# Made when it is imported: verifiers sets handlers of signals, which only the main thread may.
IMPORTED = """
import verifiers as vf
from datasets import Dataset

def brevity(completion, **_):
    return 1 / (1 + len(completion[-1]["content"]))

ROWS = [{"question": f"[{i}]->[{i},{i}]", "answer": str(i)} for i in range(4)]
MADE = vf.SingleTurnEnv(dataset=Dataset.from_list(ROWS), rubric=vf.Rubric(funcs=[brevity]))

def load_environment():
    return MADE
"""
BY_TOOL = """
actions = "field"
action_tool = "submit"
action_field = "completion"
sessions = 4
[feedback]
max_failed = 1.0  # a turn that is too long is no action, and has no reward
"""
BRIEF = "brief_env.server.app:app"
ROWS = [{"prompt": f"[{i}]->[{i},{i}]"} for i in range(4)]


@dataclass(eq=False)
class Served:
    """An environment, served."""

    folder: Path
    port: int
    processes: Processes
    app: str = "server.app:app"
    process: Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        words = [PYTHON, "-m", "uvicorn", self.app, "--port", str(self.port)]
        self.process = self.processes.start(words, self.folder, self.folder / "server.log")
        wait_for(self.answers)

    def answers(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/health", timeout=5).is_success
        return False

    def run_file(self) -> str:
        """A run in it: on rows of a file, or on the tasks that what was imported lists."""
        before, after = RUN.split("actions = ")[0], RUN[RUN.index("[rollout]") :]
        by_tool = before.replace("train.jsonl", "environment") + BY_TOOL + after
        return (by_tool if self.app == BRIEF else RUN).replace("URL", self.url)

    def has_a_place(self) -> bool:
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
        words = [sys.executable, "-c", probe, self.url.replace("http", "ws") + "/ws"]
        done = subprocess.run(words, capture_output=True, check=False)
        return done.stdout.strip() == b"observation"


Serve = Callable[..., Served]


@pytest.fixture
def serve(processes: Processes) -> Serve:
    def started(folder: Path, **settings: str) -> Served:
        server = Served(folder=folder, port=free_port(), processes=processes, **settings)
        server.start()
        return server

    return started


@pytest.fixture
def echo(tmp_path: Path, serve: Serve) -> Served:
    init = [PYTHON.parent / "openenv", "init", "echo_env"]
    subprocess.run(init, cwd=tmp_path, check=True, capture_output=True)
    return serve(tmp_path / "echo_env")


@pytest.fixture
def brief(tmp_path: Path, serve: Serve) -> Served:
    source = tmp_path / "brief"
    source.mkdir()
    (source / "brief.py").write_text(IMPORTED)
    words = ["import", source, "--name", "brief_env", "--output-dir", tmp_path / "imported"]
    made = [PYTHON.parent / "openenv", *words]
    subprocess.run(made, cwd=tmp_path, check=True, capture_output=True)
    return serve(tmp_path / "imported", app=BRIEF)


def test_two_steps_are_trained_in_an_environment_of_verifiers_that_openenv_imported(
    training: Training, brief: Served
):
    training.write(brief.run_file(), [])

    training.finish()

    lines = training.lines()
    assert [line["rollouts"] for line in lines] == [4, 4]
    assert all(0 < line["reward"] <= 1 for line in lines)
    assert "rollouts/failed" not in lines[0]
    # The importer lists the rows of the data set, which no file of the run has.
    assert f"{brief.url}[train], 4 rows" in training.log.read_text()
    wait_for(brief.has_a_place)


def test_two_steps_are_trained_in_an_environment_of_openenv(training: Training, echo: Served):
    training.write(echo.run_file(), ROWS)

    training.finish()

    lines = training.lines()
    assert [line["rollouts"] for line in lines] == [4, 4]
    # Each of two echoes is rewarded by its length.
    assert all(line["reward"] > 0 for line in lines)
    assert "rollouts/failed" not in lines[0]
    wait_for(echo.has_a_place)


def test_an_environment_without_tasks_says_so(echo: Served):
    with pytest.raises(ValueError, match=r"offers no tasks: GET /.*/splits gave 501"):
        asyncio.run(read_tasks(echo.url, "train", most=None, timeout_s=60))


@pytest.mark.parametrize("name", ["echo", "brief"])
def test_killing_the_trainer_leaves_no_session_and_killing_the_server_loses_no_rollout(
    training: Training, request: pytest.FixtureRequest, name: str
):
    served: Served = request.getfixturevalue(name)
    training.write(served.run_file(), ROWS)
    trainer = training.start("--set", "run.steps=50")
    wait_for(lambda: len(training.lines()) >= 1 and not served.has_a_place())

    assert served.process is not None
    kill(served.process)
    assert trainer.wait(600) != 0
    assert "attempts of a step were not answered" in training.log.read_text()
    before = len(training.lines())
    served.start()
    again = training.start("--set", "run.steps=50")
    wait_for(lambda: len(training.lines()) > before and not served.has_a_place())
    kill(again)

    assert training.num_recorded() >= 4 * before
    assert [line["step"] for line in training.lines()][:before] == list(range(1, before + 1))
    wait_for(served.has_a_place)
