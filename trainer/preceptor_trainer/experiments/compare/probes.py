"""Observation of a cell's run: probes between steps, and counts of the information used.

Both are participants that only observe, so they do not affect training.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from preceptor_clients.kit.files import write_whole
from preceptor_trainer.collect.labelling import Labelled
from preceptor_trainer.collect.participant import Participant, RunContext, StepContext
from preceptor_trainer.evaluation.held_out import Evaluation, EvaluationConfig, evaluate
from preceptor_trainer.experiments.compare.budget import Unit, spent
from preceptor_trainer.experiments.compare.sees import Observed
from preceptor_trainer.run.watching.metrics_log import read_metrics

PROBES = "probes"
OBSERVED = "observed.json"


@dataclass(frozen=True, kw_only=True)
class Probes:
    """Evaluates a few problems before the first step and after every so many."""

    problems: EvaluationConfig
    every: int

    @property
    def adds_rollouts(self) -> bool:
        """Probes are not trained on."""
        return False

    def join(self, run: RunContext) -> Participant:
        """The probes of one run."""
        return _Probing(self, run)


class _Probing(Participant):
    def __init__(self, config: Probes, run: RunContext) -> None:
        self._config = config
        self._run = run
        # A separate student: an overlapped schedule may be using the other one.
        self._student = run.new_student()

    async def start(self) -> None:
        """Measures the student as it was before training."""
        if self._run.first_step == 0:
            await self._measure(0)

    async def trained(self, step: int) -> None:
        """Measures where it is time."""
        if (step + 1) % self._config.every == 0:
            await self._measure(step + 1)

    async def _measure(self, step: int) -> None:
        published = self._run.published()
        await self._student.load(published)
        result = await evaluate(
            self._config.problems,
            self._student,
            self._run.labeller,
            # Not the version alone: the evaluation in the end has rollouts of that name.
            weights=f"probe/{published.version}",
            # The same draws at every step and for every method, so that curves differ only by
            # policy.
            seed=self._run.seed,
            on_progress=lambda done, total: None,
        )
        result.save(self._run.run_dir / PROBES / f"{step:06d}.json")


@dataclass(frozen=True)
class CountsUse:
    """Counts what a run's rollouts and targets are made of."""

    @property
    def adds_rollouts(self) -> bool:
        """It only counts."""
        return False

    def join(self, run: RunContext) -> Participant:
        """The counts of one run, those of its earlier lineages included."""
        return _Counting(run.run_dir / OBSERVED)


class _Counting(Participant):
    def __init__(self, path: Path) -> None:
        self._path = path
        self._observed = Observed(json.loads(path.read_text()) if path.exists() else None)

    async def labelled(self, at: StepContext, labelled: Sequence[Labelled]) -> list[Labelled]:
        """Counts the step's rows."""
        self._observed.add(labelled)
        write_whole(self._path, json.dumps(dict(self._observed.counts)))
        return []


def read_probes(run_dir: Path) -> list[dict[str, float]]:
    """Solve rate and mean length on the probe problems, with what the run had spent until then."""
    lines = read_metrics(run_dir)
    points: list[dict[str, float]] = []
    for path in sorted((run_dir / PROBES).glob("*.json")):
        step, probe = int(path.stem), Evaluation.load(path)
        taken = [line for line in lines if line["step"] <= step]
        if len(taken) < step:
            continue  # of a lineage that ended; its steps were taken again, or not at all
        units: tuple[Unit, ...] = ("seconds", "tokens")
        points.append(
            {
                "step": step,
                "pass@1": probe.solved_share,
                "length": float(probe.lengths_PN.mean()),
                **{unit: spent(taken, unit) for unit in units},
            }
        )
    return points
