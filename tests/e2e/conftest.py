"""A small real run with broker, gateway, dispatcher, self-teacher, executor as processes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from preceptor_trainer.deployment.local import LocalDeployment, write_settings

SMALL = {
    "steps": 6,
    "problems_per_step": 3,
    "rollouts_per_problem": 4,
    "held_out": 4,
    "num_samples": 8,
    "checkpoint_every": 2,
}


@dataclass(frozen=True)
class Running:
    """A deployment that runs, and how to start its trainer."""

    run_dir: Path
    deployment: LocalDeployment

    def start_trainer(
        self,
        *words: str,
        recipe: str = "preceptor_trainer.recipes.quickstart:quickstart",
        cwd: Path | None = None,
        run_dir: Path | None = None,
        **overrides: object,
    ) -> subprocess.Popen[bytes]:
        options = SMALL | {"name": self.run_dir.name} | overrides
        with (self.run_dir / "logs" / "trainer.log").open("ab") as log:
            return subprocess.Popen(
                [
                    *(sys.executable, "-m", "preceptor_clients.cli", "train"),
                    *(recipe, "--run-dir", str(run_dir or self.run_dir)),
                    *("--gateway", self.deployment.gateway_url),
                    *("--key-file", str(self.run_dir / "keys" / "trainer.key")),
                    *(part for k, v in options.items() for part in ("--option", f"{k}={v}")),
                    *words,
                ],
                cwd=cwd,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait_for(self, words: str, trainer: subprocess.Popen[bytes]) -> None:
        """Until the trainer has said `words`."""
        deadline = time.monotonic() + 120
        while words not in self.trainer_log() and time.monotonic() < deadline:
            assert trainer.poll() is None, self.trainer_log()
            time.sleep(0.01)

    def trainer_log(self) -> str:
        return (self.run_dir / "logs" / "trainer.log").read_text()


def start_deployment(run_dir: Path) -> Iterator[Running]:
    write_settings(run_dir, needs_feedback=True)
    with LocalDeployment(run_dir, Console(quiet=True)) as deployment:
        yield Running(run_dir, deployment)


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    yield from start_deployment(tmp_path_factory.mktemp("runs") / "small")


@pytest.fixture(scope="session")
def finished(running: Running) -> Running:
    """The same deployment, after one whole run."""
    code = running.start_trainer().wait(timeout=300)
    assert code == 0, running.trainer_log()
    return running


@pytest.fixture
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A second deployment, for the run that is killed."""
    yield from start_deployment(tmp_path_factory.mktemp("runs") / "killed")
