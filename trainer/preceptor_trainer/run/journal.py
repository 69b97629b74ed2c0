"""A run's records: provenance at the gateway, and the files that its report is made from.

RUN/config.json             the resolved configuration, as the run was begun
RUN/evaluations/*.json      raw outcomes of every held-out sample
RUN/metrics.jsonl           one line a step
RUN/worked_rollout.json     one rollout with its target and credit, token by token
RUN/traced_rollout.json     one token to trace, of a run without targets
RUN/summary.json            the result, for machines
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from preceptor_clients.contract.errors import NotFound
from preceptor_clients.contract.listings import RunDetails
from preceptor_clients.contract.schemas import Credit, LineageRecord, Records, RunRecord, StepRecord
from preceptor_clients.http.gateway import GatewayClient
from preceptor_clients.kit.files import write_whole
from preceptor_trainer.collect.labelling import Labelled
from preceptor_trainer.collect.rollouts import Rollout
from preceptor_trainer.evaluation.held_out import Evaluation, paired_gain
from preceptor_trainer.learner.learner import StepResult
from preceptor_trainer.objectives import weighs_gains
from preceptor_trainer.run.config import RunConfig, describe_run
from preceptor_trainer.run.evaluations import Evaluations
from preceptor_trainer.run.standing import (
    CONFIG_FILE,
    SUMMARY_FILE,
    Lineage,
    check_settings,
    differences,
)
from preceptor_trainer.run.traced_rollout import TRACED_FILE, choose_traced, read_traced
from preceptor_trainer.run.watching.metrics_log import read_metrics
from preceptor_trainer.run.worked_rollout import WORKED_FILE, choose, describe_rollout


class Journal:
    """Writes a run's records."""

    def __init__(
        self,
        gateway: GatewayClient,
        config: RunConfig,
        run_dir: Path,
        decode: Callable[[list[int]], str],
        *,
        may_grow: bool = False,
    ) -> None:
        self._gateway = gateway
        self._config = config
        self._run_dir = run_dir
        self._decode = decode
        self._may_grow = may_grow
        self._begun: dict[str, Any] = {}

    async def start_run(self) -> RunDetails:
        """Registers the run with the settings that it was begun with; returns its record.

        Raises:
            OtherSettings: it was begun with others.
        """
        self._begun = now = describe_run(self._config)
        known = await self._on_record()
        if known is not None:
            check_settings(known.config, now, self._run_dir, may_grow=self._may_grow)
            self._begun = known.config
        else:
            record = RunRecord(
                run=self._config.name, config=now, seed=self._config.seed, versions=versions()
            )
            await self._gateway.start_run(record)
        self._write(CONFIG_FILE, self._begun)
        return known or await self._gateway.run_details(self._config.name)

    async def _on_record(self) -> RunDetails | None:
        try:
            return await self._gateway.run_details(self._config.name)
        except NotFound:
            return None

    async def start_lineage(self, lineage: Lineage) -> None:
        """Registers a lineage, and the settings in which it differs from the first one."""
        changed = differences(self._begun, describe_run(self._config))
        await self._gateway.start_lineage(
            LineageRecord(
                run=self._config.name,
                lineage=lineage.name,
                parent=lineage.parent,
                from_step=lineage.from_step,
                settings={difference.name: difference.now for difference in changed},
                versions=versions(),
            )
        )

    async def record_rollouts(self, rollouts: Sequence[Rollout], lineage: str) -> None:
        """Called before a service is asked about them, so that every answer has its rollout."""
        rows = [r.record(self._config.name, lineage, self._config.sampling) for r in rollouts]
        await self._gateway.record(Records(rollouts=tuple(rows)))

    async def record_step(
        self,
        step: int,
        labelled: Sequence[Labelled],
        result: StepResult,
        before: str,
        after: str,
        seconds: Mapping[str, float],
    ) -> None:
        """One optimiser step with what it consumed, and the seconds of its phases so far."""
        targets = {row.attempt.rollout.rollout_id: row.target for row in labelled}
        _, lineage, _ = after.split("/")
        consumed = tuple(
            Credit(
                rollout_id=c.rollout_id,
                target_id=target.id if (target := targets[c.rollout_id]) else None,
                costs=c.cost_T,
                advantages=c.advantage_T,
                logprobs=c.old_logprob_T,
            )
            for c in result.credits
        )
        phases = {f"seconds/{phase}": value for phase, value in seconds.items()}
        metrics = result.metrics | {"grad_norm": result.grad_norm} | phases
        await self._gateway.record_step(
            StepRecord(
                run=self._config.name,
                lineage=lineage,
                step=step,
                loss=result.loss,
                metrics=metrics,
                consumed=consumed,
                weights_before=before,
                weights_after=after,
            )
        )

    def write_worked_rollout(self, labelled: Sequence[Labelled], result: StepResult) -> None:
        """Writes the first rollout that `choose` finds; later calls change nothing.

        Until a step has a target, it keeps a token to trace instead.
        """
        if (self._run_dir / WORKED_FILE).exists():
            return
        chosen = choose(labelled)
        if chosen is None:
            self._keep_traced(labelled)
            return
        credits = {c.rollout_id: c for c in result.credits}
        credit = credits[chosen.attempt.rollout.rollout_id]
        if weighs_gains(self._config.objective):
            credit = replace(credit, advantage_T=0 - credit.advantage_T)
        self._write(WORKED_FILE, describe_rollout(chosen, credit, self._decode))

    def _keep_traced(self, labelled: Sequence[Labelled]) -> None:
        """Writes a token to trace, unless an earlier step had one that says as much."""
        found, kept = choose_traced(labelled), read_traced(self._run_dir)
        if found is not None and (kept is None or found.interest > kept.interest):
            self._write(TRACED_FILE, asdict(found))

    def finish(
        self,
        before: Evaluation | None,
        after: Evaluation | None,
        evaluations: Evaluations,
        peak_bytes: Mapping[str, int],
    ) -> dict[str, Any]:
        """Writes the summary, and returns it; a run that is not evaluated has no result in it.

        Args:
            before: The evaluation before the first step.
            after: The one after the last step.
            evaluations: All of them.
            peak_bytes: Most memory held in each phase of this lineage.
        """
        config, lines = self._config, read_metrics(self._run_dir)
        phases = _phases(lines)
        result: dict[str, Any] = {}
        if config.evaluation is not None and before is not None and after is not None:
            between = evaluations.between()
            phases["evaluation"] = sum(one.seconds for one in (before, *between, after))
            ks = config.evaluation.ks
            result = {
                "before": before.summary(ks, config.seed),
                "after": after.summary(ks, config.seed),
                "gain": {f"pass@{k}": self._gain(before, after, k) for k in ks},
                "evaluations": [asdict(one) for one in evaluations.all()],
                "best": None if (best := evaluations.best()) is None else asdict(best),
            }
        summary = {
            "run": config.name,
            "seed": config.seed,
            "steps": config.steps,
            **result,
            "seconds": sum(phases.values()),
            "phases": phases,
            "peak_bytes": dict(peak_bytes),
            "rollouts": int(sum(line["rollouts"] for line in lines)),
            "targets": int(sum(line["targets"] for line in lines)),
            "corrections": corrections_of(lines),
            "late": late_of(lines),
            **judgements_of(lines),
            "versions": versions(),
            "config": describe_run(config),
            "trace_target": self._trace_target(),
        }
        self._write(SUMMARY_FILE, summary)
        return summary

    def _trace_target(self) -> str | None:
        path = self._run_dir / WORKED_FILE
        if path.exists():
            worked = json.loads(path.read_text())
            return f"{worked['target_id']}:{worked['focus']}"
        traced = read_traced(self._run_dir)
        return None if traced is None else f"{traced.rollout_id}:{traced.position}"

    def _gain(self, before: Evaluation, after: Evaluation, k: int) -> dict[str, float]:
        return asdict(paired_gain(before, after, k, seed=self._config.seed))

    def _write(self, name: str, value: Any) -> None:
        text = json.dumps(value, indent=1, allow_nan=False)
        write_whole(self._run_dir / name, text + "\n")


def versions() -> dict[str, str]:
    """Versions and machine properties that the numbers of a run depend on."""
    packages = ("preceptor", "torch", "transformers", "numpy", "tokenizers")
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": str(torch.get_num_threads()),
        **{name: importlib.metadata.version(name) for name in packages},
    }


def corrections_of(lines: Sequence[dict[str, Any]]) -> dict[str, int] | None:
    """Counts of people's corrections; None for a run without people."""
    if not any("corrections/sent" in line for line in lines):
        return None
    return {
        "sent": int(sum(line.get("corrections/sent", 0) for line in lines)),
        "standing": int(lines[-1].get("corrections/standing", 0)),
        "trained": int(sum(line.get("corrections/trained", 0) for line in lines)),
    }


def late_of(lines: Sequence[dict[str, Any]]) -> dict[str, int] | None:
    """Counts of answers after their step's deadline; None for a run whose steps do not overlap."""
    if not any("late/joined" in line for line in lines):
        return None
    sums = {
        name: int(sum(line.get(f"late/{name}", 0) for line in lines))
        for name in ("joined", "dropped", "skipped")
    }
    return {**sums, "waiting": int(lines[-1].get("late/waiting", 0))}


def judgements_of(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Failed judgements by source, attempts without a reward because of them, and the price."""
    failed: dict[str, int] = {}
    for line in lines:
        for key, value in line.items():
            if key.startswith("failed_judgements/"):
                name = key.removeprefix("failed_judgements/")
                failed[name] = failed.get(name, 0) + int(value)
    return {
        "failed_judgements": failed,
        "unjudged": int(sum(line.get("unjudged", 0) for line in lines)),
        "feedback_cost": float(sum(line.get("feedback_cost", 0.0) for line in lines)),
    }


def _phases(lines: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Seconds per phase over the surviving steps."""
    totals: dict[str, float] = {}
    for line in lines:
        for key, value in line.items():
            if key.startswith("seconds/"):
                name = key.removeprefix("seconds/")
                totals[name] = totals.get(name, 0.0) + value
    return totals
