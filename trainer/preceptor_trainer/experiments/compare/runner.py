"""Runs the missing cells of a comparison, one after the other, on one deployment.

    Runner(comparison, folder, console).run()

A restarted runner continues: a finished cell is a file, and an interrupted one continues from its
last checkpoint. A finished run keeps its records, its report and its provenance; its weights and
checkpoints are removed.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from preceptor_clients.http.gateway import GatewayClient
from preceptor_clients.kit.files import write_whole
from preceptor_trainer.deployment.local import LocalDeployment
from preceptor_trainer.evaluation.held_out import Evaluation
from preceptor_trainer.experiments.compare.budget import WithinBudget, spent
from preceptor_trainer.experiments.compare.cells import (
    METRICS,
    CellResult,
    CellStore,
    MadeOtherwise,
    Outcomes,
    difference,
    identity,
)
from preceptor_trainer.experiments.compare.plan import Cell, Comparison
from preceptor_trainer.experiments.compare.probes import OBSERVED, CountsUse, Probes, read_probes
from preceptor_trainer.experiments.compare.services import RUNS, write_deployment
from preceptor_trainer.loop import Trainer
from preceptor_trainer.run.journal import versions
from preceptor_trainer.run.watching.metrics_log import read_metrics
from preceptor_trainer.run.watching.progress import Progress


class _Once:
    """Starts the services when they are first needed."""

    def __init__(self, start: Callable[[], LocalDeployment]) -> None:
        self._start = start
        self._running: LocalDeployment | None = None

    def __call__(self) -> LocalDeployment:
        self._running = self._running or self._start()
        return self._running


class Runner:
    """One comparison in one folder."""

    def __init__(self, comparison: Comparison, folder: Path, console: Console) -> None:
        self.comparison = comparison
        self.folder = folder
        self.console = console
        self.store = CellStore(folder)

    def run(self) -> tuple[list[CellResult], list[CellResult]]:
        """Runs the missing cells; returns those of the search and the final ones."""
        with ExitStack() as services:
            deployment = _Once(lambda: services.enter_context(self._deployment()))
            search = self._complete(self.comparison.search_cells(), deployment)
            rates = choose_rates(self.comparison, search)
            final = self._complete(self.comparison.final_cells(rates), deployment)
        return search, final

    def _deployment(self) -> LocalDeployment:
        write_deployment(self.folder, self.comparison.services, self.comparison.setting.model)
        return LocalDeployment(self.folder, self.console)

    def _load(self, cell: Cell) -> CellResult | None:
        return self.store.load(cell, identity(self.comparison, cell))

    def _complete(self, cells: Sequence[Cell], deployment: _Once) -> list[CellResult]:
        missing = [cell for cell in cells if self._load(cell) is None]
        if missing:
            running = deployment()
            asyncio.run(self._run_all(missing, running.gateway_url, running.key))
        results = [self._load(cell) for cell in cells]
        assert all(result is not None for result in results)
        return [result for result in results if result is not None]

    async def _run_all(self, cells: list[Cell], url: str, key: str) -> None:
        async with GatewayClient(url, key) as gateway:
            for number, cell in enumerate(cells, start=1):
                result = await self._run(cell, gateway)
                self.store.save(result)
                self._remove_bytes(cell)
                self.console.print(f"[{number}/{len(cells)}] {_line(result)}", highlight=False)

    async def _run(self, cell: Cell, gateway: GatewayClient) -> CellResult:
        comparison, setting = self.comparison, self.comparison.setting
        run_dir = self._run_dir(cell)
        resumed, start = run_dir.exists(), time.monotonic()
        claim(run_dir, identity(comparison, cell))
        config = comparison.method(cell.method).build(comparison.trial(cell))
        schedule = WithinBudget(inner=config.schedule, budget=comparison.budget, run_dir=run_dir)
        with self._shared_evaluation(cell):
            watched = replace(
                config,
                schedule=schedule,
                participants=(
                    *config.participants,
                    Probes(problems=setting.probe, every=setting.probe_every),
                    CountsUse(),
                ),
            )
            await Trainer(watched, run_dir, gateway, Progress(Console(quiet=True))).run()
        wall_seconds = None if resumed else time.monotonic() - start
        return self._result(cell, run_dir, wall_seconds)

    @contextmanager
    def _shared_evaluation(self, cell: Cell) -> Generator[None]:
        """Methods of one seed begin with the same student and the same draws: sampled once."""
        shared = self.folder / "before" / f"{before_key(self.comparison, cell)}.json"
        own = self._run_dir(cell) / "evaluations" / "before.json"
        if shared.exists() and not own.exists():
            own.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(shared, own)
        yield
        if not shared.exists():
            shared.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(own, shared)

    def _result(self, cell: Cell, run_dir: Path, wall_seconds: float | None) -> CellResult:
        lines = read_metrics(run_dir)
        return CellResult(
            cell=cell,
            made_with=identity(self.comparison, cell),
            before=Outcomes.of(Evaluation.load(run_dir / "evaluations" / "before.json")),
            after=Outcomes.of(Evaluation.load(run_dir / "evaluations" / "after.json")),
            probes=read_probes(run_dir),
            metrics=[{name: _rounded(line.get(name)) for name in METRICS} for line in lines],
            observed=json.loads((run_dir / OBSERVED).read_text()),
            steps=len(lines),
            seconds=spent(lines, "seconds"),
            tokens=spent(lines, "tokens"),
            versions=versions(),
            wall_seconds=wall_seconds,
        )

    def _remove_bytes(self, cell: Cell) -> None:
        for name in ("weights", "checkpoints", "tensorboard"):
            shutil.rmtree(self._run_dir(cell) / name, ignore_errors=True)

    def _run_dir(self, cell: Cell) -> Path:
        return self.folder / RUNS / cell.name


def claim(run_dir: Path, made_with: dict[str, Any]) -> None:
    """Records the configuration of an unfinished run, which will be continued with it.

    Raises:
        MadeOtherwise: the run was started with another configuration.
    """
    path = run_dir / "made_with.json"
    if path.exists():
        other = difference(json.loads(path.read_text()), made_with)
        if other:
            raise MadeOtherwise(
                f"{run_dir}: was begun with {other}; remove it, or compare in another folder"
            )
        return
    run_dir.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(made_with) + "\n")


def before_key(comparison: Comparison, cell: Cell) -> str:
    """A name for the evaluation before training: everything that decides its draws."""
    config = identity(comparison, cell)["config"]
    decides = json.dumps([config["model"], config["evaluation"], cell.seed], sort_keys=True)
    return f"{cell.stage}-{cell.seed}-{hashlib.sha256(decides.encode()).hexdigest()[:12]}"


def choose_rates(comparison: Comparison, search: Iterable[CellResult]) -> dict[str, float]:
    """Each method's rate: the best mean solve rate on the validation problems.

    Of equal rates the smaller one, which changed the student less.
    """
    scores = search_scores(search)
    return {
        method.name: method.learning_rates[0]
        if len(method.learning_rates) == 1
        else max(method.learning_rates, key=lambda lr, m=method: (scores[m.name][lr], -lr))
        for method in comparison.methods
    }


def search_scores(search: Iterable[CellResult]) -> dict[str, dict[float, float]]:
    """Mean pass@1 after training on the validation problems, by method and rate."""
    found: dict[str, dict[float, list[float]]] = {}
    for result in search:
        shares = found.setdefault(result.cell.method, {}).setdefault(result.cell.lr, [])
        shares.append(result.after.solved_share)
    return {
        method: {lr: float(np.mean(shares)) for lr, shares in rates.items()}
        for method, rates in found.items()
    }


def _rounded(value: float | None) -> float | None:
    """Six digits are more than a curve shows, and a third of the bytes."""
    return None if value is None else float(f"{value:.6g}")


def _line(result: CellResult) -> str:
    before, after = result.before, result.after
    ungraded = before.num_ungraded + after.num_ungraded
    missing = f", {ungraded} samples were not graded" if ungraded else ""
    return (
        f"{result.cell.name}: pass@1 {before.solved_share * 100:.1f} % -> "
        f"{after.solved_share * 100:.1f} % in {result.steps} steps, {result.seconds:.0f} s{missing}"
    )
