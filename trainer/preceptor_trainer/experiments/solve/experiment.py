"""All drivers on the hard tail, over seeds: missing results are run, existing ones are kept.

FOLDER/base_rates.json                   how the questions were chosen
FOLDER/experiment.json                   what the trajectories were made with
FOLDER/cells/{method}-{seed}.json        trajectories of the drivers that run questions together
FOLDER/cells/test-time-{seed}/{id}.json  of the driver that trains on each question alone
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from preceptor_clients.http.gateway import GatewayClient
from preceptor_clients.kit.files import write_whole
from preceptor_trainer.experiments.compare.cells import MadeOtherwise, difference
from preceptor_trainer.experiments.solve.base_rates import student_sha256
from preceptor_trainer.experiments.solve.best_of_k import best_of_k
from preceptor_trainer.experiments.solve.multi_turn import MultiTurn
from preceptor_trainer.experiments.solve.session import Session
from preceptor_trainer.experiments.solve.test_time import SelfDistillation, self_distil
from preceptor_trainer.experiments.solve.trajectory import DriverName, Trajectory
from preceptor_trainer.run.config import describe
from preceptor_trainer.student import STUDENT_DIR
from preceptor_trainer.tasks.task import Problem

DRIVERS: Final[tuple[DriverName, ...]] = ("best-of-k", "multi-turn", "test-time")
SETTINGS_FILE: Final = "experiment.json"


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Questions, seeds and the number of attempts."""

    problems: Sequence[Problem]
    """The hard tail."""
    max_attempts: int = 512
    """Where everything is censored."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Of every driver on every question."""
    drivers: tuple[DriverName, ...] = DRIVERS
    """Which of them."""
    multi_turn: MultiTurn = field(default_factory=MultiTurn)
    """How the history is kept."""
    test_time: SelfDistillation = field(default_factory=SelfDistillation)
    """How a question is trained on."""
    model: Path = STUDENT_DIR
    """Folder of the student."""

    def __post_init__(self) -> None:
        if not self.problems:
            raise ValueError(
                "problems: is empty; the student has no hard tail among those measured"
            )
        if self.max_attempts < 1:
            raise ValueError(f"max_attempts: must be at least 1, not {self.max_attempts}")
        if not self.drivers:
            raise ValueError(f"drivers: is empty; valid are {', '.join(DRIVERS)}")
        for driver in self.drivers:
            if driver not in DRIVERS:
                raise ValueError(f"drivers: {driver!r} is not one of {', '.join(DRIVERS)}")
        if not self.seeds:
            raise ValueError("seeds: is empty")

    def made_with(self) -> dict[str, Any]:
        """What the trajectories depend on, whatever the seed and driver."""
        made_with = {
            "problems": [problem.id for problem in self.problems],
            "max_attempts": self.max_attempts,
            "multi_turn": describe(self.multi_turn),
            "test_time": describe(self.test_time),
            "student": student_sha256(self.model),
        }
        return json.loads(json.dumps(made_with))


class Bench:
    """One experiment in one folder, on a deployment that runs."""

    def __init__(
        self, experiment: Experiment, folder: Path, gateway: GatewayClient, console: Console
    ) -> None:
        self._experiment = experiment
        self._folder = folder
        self._gateway = gateway
        self._console = console

    async def run(self) -> None:
        """Everything that is missing, seed by seed."""
        session: Session | None = None
        for seed in self._experiment.seeds:
            for driver in self._experiment.drivers:
                if driver == "test-time":
                    await self._train(seed)
                elif not _cell(self._folder, driver, seed).exists():
                    session = session or await Session.open(
                        self._gateway, run="solve", model=self._experiment.model
                    )
                    await self._attempt(session, driver, seed)

    async def _attempt(self, session: Session, driver: DriverName, seed: int) -> None:
        experiment = self._experiment
        run = best_of_k if driver == "best-of-k" else experiment.multi_turn
        trajectories = await run(
            session, experiment.problems, seed=seed, max_attempts=experiment.max_attempts
        )
        _save(_cell(self._folder, driver, seed), [asdict(t) for t in trajectories])
        solved = sum(t.solved_at is not None for t in trajectories)
        self._say(f"{driver}, seed {seed}: {solved} of {len(trajectories)} questions")

    async def _train(self, seed: int) -> None:
        experiment = self._experiment
        for problem in experiment.problems:
            path = _question(self._folder, seed, problem)
            if path.exists():
                continue
            run_dir = self._folder / "runs" / f"tt-{problem.id}-{seed}"
            trajectory = await self_distil(
                experiment.test_time,
                self._gateway,
                problem,
                run_dir=run_dir,
                seed=seed,
                max_attempts=experiment.max_attempts,
                model=experiment.model,
            )
            _save(path, asdict(trajectory))
            for name in ("weights", "checkpoints", "tensorboard"):
                shutil.rmtree(run_dir / name, ignore_errors=True)
            outcome = f"solved at {trajectory.solved_at}" if trajectory.solved_at else "not solved"
            self._say(f"test-time, seed {seed}, {problem.id}: {outcome}")

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)


def claim_folder(experiment: Experiment, folder: Path) -> None:
    """Records the configuration of the folder's trajectories.

    Raises:
        MadeOtherwise: the folder has trajectories of another configuration.
    """
    path, made_with = folder / SETTINGS_FILE, experiment.made_with()
    if path.exists():
        other = difference(json.loads(path.read_text()), made_with)
        if other:
            raise MadeOtherwise(f"{path}: was made with {other}; use another folder")
    _save(path, made_with)


def is_complete(experiment: Experiment, folder: Path) -> bool:
    """Whether nothing is missing."""
    return not _missing(experiment, folder)


def read_trajectories(experiment: Experiment, folder: Path) -> dict[str, list[Trajectory]]:
    """Everything that the experiment asks for, by driver.

    Raises:
        ValueError: something is missing.
    """
    missing = _missing(experiment, folder)
    if missing:
        raise ValueError(f"{missing[0]} is missing, and {len(missing) - 1} more")
    found: dict[str, list[Trajectory]] = {}
    for driver in experiment.drivers:
        read = [json.loads(path.read_text()) for path in _paths(experiment, folder, driver)]
        rows = read if driver == "test-time" else [row for rows in read for row in rows]
        found[driver] = [Trajectory(**row) for row in rows]
    return found


def _missing(experiment: Experiment, folder: Path) -> list[Path]:
    paths = [path for driver in experiment.drivers for path in _paths(experiment, folder, driver)]
    return [path for path in paths if not path.exists()]


def _paths(experiment: Experiment, folder: Path, driver: DriverName) -> list[Path]:
    return [
        path
        for seed in experiment.seeds
        for path in (
            [_question(folder, seed, problem) for problem in experiment.problems]
            if driver == "test-time"
            else [_cell(folder, driver, seed)]
        )
    ]


def _cell(folder: Path, driver: DriverName, seed: int) -> Path:
    return folder / "cells" / f"{driver}-{seed}.json"


def _question(folder: Path, seed: int, problem: Problem) -> Path:
    return folder / "cells" / f"test-time-{seed}" / f"{problem.id}.json"


def _save(path: Path, value: Any) -> None:
    write_whole(path, json.dumps(value, allow_nan=False) + "\n")
