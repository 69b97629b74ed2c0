"""The deployment of a single run: settings on disk, and `preceptor up` as a child process.

The trainer uses the services only through their settings file and HTTP routes.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from rich.console import Console
from rich.markup import escape
from rich.status import Status

from preceptor_clients.contract.deployment import (
    EMBEDDED,
    DeployedGateway,
    DeployedService,
    Deployment,
    local_key,
    local_service,
    to_toml,
)
from preceptor_clients.kit.files import write_whole
from preceptor_trainer.student import STUDENT_DIR
from preceptor_trainer.tasks.programming_by_example.task import EXECUTOR

_READY_TIMEOUT_S = 300.0
"""Timeout of the start. With a cold disk and two busy cores, importing torch takes minutes."""
_STOP_TIMEOUT_S = 30.0

SELF_TEACHER = "preceptor_services.experts.self_teacher:SelfTeacher"
EXECUTOR_CLASS = "preceptor_services.feedback.executor:Executor"


def own_deployment(
    experts: Mapping[str, DeployedService],
    *,
    weights_roots: Sequence[Path],
    sources: Mapping[str, DeployedService] | None = None,
    late: str | None = None,
) -> Deployment:
    """The services of one machine: these experts and sources, a broker and own keys.

    Args:
        experts: Experts by name.
        weights_roots: Allowed folders of weights, relative to the settings file.
        sources: Feedback sources by name; the executor where absent.
        late: The expert that answers later, which gets a key to do so.
    """
    if sources is None:
        sources = {EXECUTOR: local_service(EXECUTOR, EXECUTOR_CLASS)}
    return Deployment(
        gateway=DeployedGateway(
            port=0,
            broker=EMBEDDED,
            database="sqlite+aiosqlite:///preceptor.db",
            blobs=Path("blobs"),
            weights_roots=tuple(weights_roots),
            hash_key_file=Path("keys/hash.key"),
        ),
        keys={
            **{scope: local_key(scope) for scope in ("trainer", "dispatcher", "admin")},
            **({} if late is None else {"expert": local_key("expert", service=late)}),
        },
        experts=dict(experts),
        sources=dict(sources),
    )


def write_settings(run_dir: Path, *, needs_feedback: bool) -> Path:
    """Writes the run's `preceptor.toml`, unless it is there already."""
    path = run_dir / "preceptor.toml"
    run_dir.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        options = {
            "model": str(STUDENT_DIR),
            "template": "compact",
            "ema_rate": 0.05,
            "weights_roots": [str((run_dir / "weights").resolve())],
            "needs_feedback": needs_feedback,
            "threads": 2,
        }
        experts = {"self-teacher": local_service("self-teacher", SELF_TEACHER, options)}
        comment = (
            f"The deployment of one run, started by `preceptor up --config {path}`.\n"
            "Ports 0 are chosen when it starts; the gateway keeps its port as long as it is free."
        )
        text = to_toml(own_deployment(experts, weights_roots=[Path("weights")]), comment=comment)
        write_whole(path, text)
    return path


class DeploymentFailed(Exception):
    """The services did not start; the message has the reason and the end of the log."""


class LocalDeployment:
    """Runs `preceptor up` during a `with` block."""

    def __init__(self, run_dir: Path, console: Console) -> None:
        self._run_dir = run_dir
        self._console = console
        self.gateway_url = ""
        self.key = ""

    def __enter__(self) -> Self:
        ready_file = self._run_dir / "ready.json"
        ready_file.unlink(missing_ok=True)
        (self._run_dir / "weights").mkdir(exist_ok=True)
        (self._run_dir / "logs").mkdir(exist_ok=True)
        self._log = (self._run_dir / "logs" / "up.log").open("ab")
        self._log_start = self._log.tell()
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "preceptor_clients.cli", "up"),
                *("--config", str(self._run_dir / "preceptor.toml")),
                *("--ready-file", str(ready_file)),
            ],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            with self._console.status("starting the services") as status:
                ready = self._wait(ready_file, status)
        except KeyboardInterrupt:
            self._stop()
            raise
        self.gateway_url = ready["gateway"]
        self.key = Path(ready["keys"]["trainer"]).read_text().strip()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()

    def _wait(self, ready_file: Path, status: Status) -> dict[str, Any]:
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while not ready_file.exists():
            if self._process.poll() is not None:
                self._fail(f"`preceptor up` ended with exit code {self._process.returncode}")
            if time.monotonic() > deadline:
                self._fail(f"not ready within {_READY_TIMEOUT_S:g} s")
            if words := self._last_words(1):
                status.update(f"starting the services: {escape(words)}")
            time.sleep(0.05)
        return json.loads(ready_file.read_text())

    def _stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._log.close()

    def _fail(self, reason: str) -> NoReturn:
        self._stop()
        raise DeploymentFailed(
            f"the services did not start: {reason}. Each has a log in {self._run_dir / 'logs'}; "
            f"the last lines of {self._log.name}:\n{self._last_words(20)}"
        )

    def _last_words(self, num_lines: int) -> str:
        """The last lines of this start's log, without those of earlier starts."""
        with Path(self._log.name).open(errors="replace") as log:
            log.seek(self._log_start)
            return "\n".join(log.read().splitlines()[-num_lines:])
