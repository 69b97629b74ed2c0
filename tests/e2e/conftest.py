"""Small real runs with broker, gateway, dispatcher, self-teacher, executor as processes.

All tests of this folder share one deployment, so one worker runs them all.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from preceptor_clients.cli import expert as expert_command
from preceptor_clients.http.gateway import GatewayClient
from preceptor_clients.kit.files import make_key_file
from preceptor_clients.sdk.service import ExpertService, service_app
from preceptor_trainer.deployment.local import LocalDeployment, write_settings

from .forked import Command, Point
from .listening import listening

SMALL = {
    "steps": 6,
    "problems_per_step": 3,
    "rollouts_per_problem": 4,
    "held_out": 4,
    "num_samples": 8,
    "checkpoint_every": 2,
}

_numbers = itertools.count()


@dataclass(frozen=True)
class Running:
    """A deployment that runs, a run's folder in it, and how to start the run's trainer."""

    home: Path
    """The deployment's folder."""
    run_dir: Path
    deployment: LocalDeployment

    def run(self, name: str) -> Running:
        """Another run, where the deployment allows weights to lie."""
        return replace(self, run_dir=self.home / "weights" / name)

    def start_trainer(
        self,
        *words: str,
        recipe: str = "preceptor_trainer.recipes.quickstart:quickstart",
        cwd: Path | None = None,
        kill_at: Point | None = None,
        **overrides: object,
    ) -> Command:
        options = SMALL | {"name": self.run_dir.name} | overrides
        return Command(
            [
                *("train", recipe, "--run-dir", str(self.run_dir)),
                *("--gateway", self.deployment.gateway_url),
                *("--key-file", str(self.home / "keys" / "trainer.key")),
                *(part for k, v in options.items() for part in ("--option", f"{k}={v}")),
                *words,
            ],
            self._log,
            cwd=cwd,
            kill_at=kill_at,
        )

    def wait_for(self, words: str, trainer: Command) -> None:
        """Until the trainer has said `words`."""
        deadline = time.monotonic() + 120
        while words not in self.trainer_log() and time.monotonic() < deadline:
            assert trainer.poll() is None, self.trainer_log()
            time.sleep(0.01)

    @contextmanager
    def expert(self, name: str, service: ExpertService) -> Iterator[None]:
        """Adds an expert that runs in this process to the gateway, while the block lasts."""
        keys = self.home / "keys"
        make_key_file(keys / "services" / f"{name}.key")
        key = (keys / "services" / f"{name}.key").read_text().strip()
        with listening(service_app(service, key=key)) as url:
            words = ["add", name, url, "--gateway", self.deployment.gateway_url]
            words += ["--key-file", str(keys / "admin.key")]
            added = CliRunner().invoke(expert_command.app, words)
            assert added.exit_code == 0, added.output
            try:
                yield
            finally:
                # The tests after a failed one have the same gateway.
                asyncio.run(self._remove(name))

    async def _remove(self, name: str) -> None:
        key = (self.home / "keys" / "admin.key").read_text().strip()
        async with GatewayClient(self.deployment.gateway_url, key) as client:
            await client.remove_expert(name)

    def trainer_log(self) -> str:
        return self._log.read_text()

    @property
    def _log(self) -> Path:
        return self.run_dir / "trainer.log"


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("runs") / "small"
    write_settings(home, needs_feedback=True)
    with LocalDeployment(home, Console(quiet=True)) as deployment:
        yield Running(home, home, deployment)


@pytest.fixture(scope="session")
def finished(running: Running) -> Running:
    """The same deployment, after one whole run in its own folder."""
    code = running.start_trainer().wait(timeout=300)
    assert code == 0, running.trainer_log()
    return running


@pytest.fixture
def other(running: Running) -> Running:
    """Another run, to be killed."""
    return running.run(f"other-{next(_numbers)}")
