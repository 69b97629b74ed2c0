"""The remote rung against a server that speaks `run_code` and really runs what it gets."""

from __future__ import annotations

import base64
import json
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from preceptor_services.sandbox.command import Command, CommandLimits
from preceptor_services.sandbox.isolation import (
    CaseResult,
    IsolationFailed,
    Limits,
    Outcome,
    ProgramRun,
)
from preceptor_services.sandbox.ladder import open_sandbox
from preceptor_services.sandbox.rungs.rung import RungOptions


class RunCode(BaseHTTPRequestHandler):
    """The server's call, with the fields that it documents."""

    def do_POST(self) -> None:
        assert self.path == "/run_code"
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        failing = getattr(self.server, "failing", None)
        body = json.dumps(failing or run_code(asked)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Not into the test's output."""


def run_code(asked: dict[str, Any]) -> dict[str, Any]:
    assert asked["language"] == "bash"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path, text in asked["files"].items():
            (folder / path).write_bytes(base64.b64decode(text))
        run: dict[str, Any] = {"status": "Finished"}
        started = time.monotonic()
        try:
            done = subprocess.run(
                ["bash", "-c", asked["code"]],
                cwd=folder,
                capture_output=True,
                timeout=asked["run_timeout"],
                check=False,
            )
            run |= {"return_code": done.returncode, "stdout": done.stdout.decode()}
            run["stderr"] = done.stderr.decode()
        except subprocess.TimeoutExpired:
            run["status"] = "TimeLimitExceeded"
        run["execution_time"] = time.monotonic() - started
        found = {p: folder / p for p in asked["fetch_files"] if (folder / p).is_file()}
        files = {p: base64.b64encode(path.read_bytes()).decode() for p, path in found.items()}
    return {"status": "Success", "message": "", "run_result": run, "files": files}


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadingHTTPServer]:
    served = ThreadingHTTPServer(("127.0.0.1", 0), RunCode)
    thread = threading.Thread(target=served.serve_forever)
    thread.start()
    yield served
    served.shutdown()
    thread.join()
    served.server_close()


@pytest.fixture
def options(server: ThreadingHTTPServer) -> Iterator[RungOptions]:
    yield RungOptions(url=f"http://127.0.0.1:{server.server_port}")
    server.failing = None  # pyright: ignore[reportAttributeAccessIssue]


def test_a_command_runs_there_with_its_files_input_and_results(options: RungOptions) -> None:
    program = (
        "import os\nprint(int(input()) + 1)\nos.write(3, b'result')\n"
        "open('made', 'w').write('kept')\nraise SystemExit(7)"
    )
    box = open_sandbox("remote", options=options)

    found = box.execute(Command(files={"main.py": program}, stdin=b"41", keep=("made",)))
    box.stop()

    assert (found.ended_by, found.exit_code, found.stdout) == ("exit", 7, b"42\n")
    assert (found.result, found.files, found.rung) == (b"result", {"made": b"kept"}, "remote")


def test_an_expression_is_evaluated_there(options: RungOptions) -> None:
    box = open_sandbox("remote", options=options)
    attempt = ProgramRun(program="sorted(x)", entry="x", inputs=([3, 1], 5))

    found = box.run(attempt, Limits())
    box.stop()

    error = CaseResult(error="TypeError: 'int' object is not iterable")
    assert found == Outcome(results=(CaseResult(value=[1, 3]), error), ended="finished")


@pytest.mark.parametrize(
    ("program", "limits", "ended"),
    [
        (
            "import signal; signal.signal(24, signal.SIG_IGN)\nwhile True: pass",
            CommandLimits(cpu_seconds=0.5),
            "cpu_time",
        ),
        ("import time; time.sleep(9)", CommandLimits(cpu_seconds=0.1, timeout_s=0.5), "wall_time"),
        ("print('a' * 10**6)", CommandLimits(output_bytes=1000), "output"),
        ("import os; os.kill(os.getpid(), 9)", CommandLimits(), "signal"),
    ],
)
def test_a_limit_reached_there_is_named(
    options: RungOptions, program: str, limits: CommandLimits, ended: str
) -> None:
    box = open_sandbox("remote", options=options)

    found = box.execute(Command(files={"main.py": program}), limits)
    box.stop()

    assert found.ended_by == ended


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"status": "SandboxError", "message": "no more workers"}, "no more workers"),
        ({"status": "Success", "run_result": None}, "it failed"),
        ({"run_result": {"status": "Error", "return_code": None}}, "status 'Error', code None"),
        ({"run_result": {"status": "Finished", "return_code": 0}, "files": {"a": "?"}}, "base64"),
    ],
)
def test_a_failure_of_the_server_is_never_a_result(
    server: ThreadingHTTPServer, options: RungOptions, answer: dict[str, Any], message: str
) -> None:
    box = open_sandbox("remote", options=options)
    server.failing = answer  # pyright: ignore[reportAttributeAccessIssue]

    with pytest.raises(IsolationFailed, match=message):
        box.execute(Command(files={"main.py": "print(1)"}))
    box.stop()


def test_a_server_that_is_not_there_is_refused_at_the_start() -> None:
    with pytest.raises(IsolationFailed, match=r"remote: http://127\.0\.0\.1:1"):
        open_sandbox("remote", options=RungOptions(url="http://127.0.0.1:1"))
    with pytest.raises(IsolationFailed, match="option `url`"):
        open_sandbox("remote")
