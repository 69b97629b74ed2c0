"""The loop of one cell: as everywhere, with probes between steps and a count of what was used."""

from __future__ import annotations

import json
from pathlib import Path

from preceptor_clients.http.clients import GatewayClient
from preceptor_trainer.collect.sampler import SamplerStage
from preceptor_trainer.evaluation.held_out import Evaluation, evaluate
from preceptor_trainer.experiments.compare.budget import Unit, spent
from preceptor_trainer.experiments.compare.sees import Observed
from preceptor_trainer.loop import Collected, Trainer
from preceptor_trainer.run.config import EvaluationConfig, RunConfig
from preceptor_trainer.run.metrics_log import read_metrics
from preceptor_trainer.run.progress import Progress

PROBES = "probes"
OBSERVED = "observed.json"


class CellTrainer(Trainer):
    """A trainer that is watched. What it trains on does not depend on the watching."""

    def __init__(
        self,
        config: RunConfig,
        run_dir: Path,
        gateway: GatewayClient,
        progress: Progress,
        *,
        probe: EvaluationConfig,
        probe_every: int,
    ) -> None:
        super().__init__(config, run_dir, gateway, progress)
        self._probe = probe
        self._probe_every = probe_every
        # A sampler of its own: an overlapped schedule may be using the other one.
        self._probe_sampler = SamplerStage(self.policy)
        path = run_dir / OBSERVED
        self._observed = Observed(json.loads(path.read_text()) if path.exists() else None)

    async def collect(self, step: int) -> Collected:
        """Collects, and counts what the rollouts and targets are made of."""
        if step == 0:
            await self._measure(0)
        collected = await super().collect(step)
        self._observed.add(collected.labelled)
        _write(self.run_dir / OBSERVED, dict(self._observed.counts))
        return collected

    async def train(self, batch: Collected) -> None:
        """Takes the step, and probes where it is time."""
        await super().train(batch)
        if (batch.step + 1) % self._probe_every == 0:
            await self._measure(batch.step + 1)

    async def _measure(self, step: int) -> None:
        path = self.run_dir / PROBES / f"{step:06d}.json"
        published = self.publisher.published
        self._probe_sampler.load(published)
        result = await evaluate(
            self._probe,
            self._probe_sampler,
            self.asker,
            # Not the version alone: the evaluation in the end has rollouts of that name.
            weights=f"probe/{published.version}",
            # The same draws at every step and for every method: curves differ by policy alone.
            seed=self.config.seed,
            on_progress=lambda done, total: None,
        )
        result.save(path)


def read_probes(run_dir: Path) -> list[dict[str, float]]:
    """Solve rate and mean length on the probe problems, with what the run had spent until then."""
    lines = read_metrics(run_dir)
    points: list[dict[str, float]] = []
    for path in sorted((run_dir / PROBES).glob("*.json")):
        step, probe = int(path.stem), Evaluation.load(path)
        taken = [line for line in lines if line["step"] < step]
        if len(taken) < step:
            continue  # of a life that ended; its steps were taken again, or not at all
        units: tuple[Unit, ...] = ("seconds", "tokens")
        points.append(
            {
                "step": step,
                "pass@1": float(probe.successes_PN.mean()),
                "length": float(probe.lengths_PN.mean()),
                **{unit: spent(taken, unit) for unit in units},
            }
        )
    return points


def _write(path: Path, value: dict[str, int]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value))
    partial.replace(path)
