"""The loop: sample, feedback, experts, targets, step, publish, record.

    async with GatewayClient(url, key) as gateway:
        await Trainer(config, run_dir, gateway, progress).run()

A trainer that is started again on the same folder continues from the last checkpoint on a new
lineage; the steps that the interrupted one took after it are superseded. Nothing in here knows who
answers or who takes part: experts, sources, participants, the objective and the context policy come
with the configuration.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch

from preceptor_clients.contract.schemas import Records
from preceptor_clients.http.clients import GatewayClient
from preceptor_trainer.collect.dynamic_sampling import Judged
from preceptor_trainer.collect.labelling import Labelled, Labeller
from preceptor_trainer.collect.participant import Participant, RunContext, StepContext
from preceptor_trainer.collect.rollouts import Attempt, Rollout
from preceptor_trainer.collect.student import RolloutRequest, Student
from preceptor_trainer.evaluation.held_out import Evaluation, evaluate
from preceptor_trainer.kit.seeding import generator
from preceptor_trainer.learner.learner import Learner
from preceptor_trainer.learner.policy import Policy, WeightFolder
from preceptor_trainer.model.batch import TrainRollout, make_batches
from preceptor_trainer.report import write_report
from preceptor_trainer.run.config import RunConfig
from preceptor_trainer.run.journal import Journal
from preceptor_trainer.run.metrics_log import MetricsLog
from preceptor_trainer.run.progress import Progress
from preceptor_trainer.run.publishing import Publisher
from preceptor_trainer.run.step_metrics import collect_metrics
from preceptor_trainer.tasks.task import Problem


@dataclass(frozen=True, kw_only=True, eq=False)
class Collected:
    """One step's labelled rollouts, ready to train on."""

    at: StepContext
    labelled: Sequence[Labelled]
    judged: Judged
    seconds: dict[str, float]


@dataclass
class PhaseTimer:
    """Seconds per phase."""

    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict[str, float])

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        """Times one phase and shows it."""
        self.progress.phase(name)
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - start


class Trainer:
    """One lineage of a run."""

    def __init__(
        self, config: RunConfig, run_dir: Path, gateway: GatewayClient, progress: Progress
    ) -> None:
        torch.set_num_threads(config.threads)
        self.config = config
        self.run_dir = run_dir
        self.progress = progress
        self.policy = Policy(config.model)
        self.learner = Learner(self.policy.model, config.optimiser, trunk=self.policy.trunk)
        self.student = Student(self.policy, config.sampler)
        self.labeller = Labeller(
            gateway=gateway,
            run=config.name,
            task=config.task,
            experts=config.experts,
            context=config.context,
            vocab_fingerprint=self.policy.vocab_fingerprint,
            batching=config.schedule.batching,
            timeout_s=config.timeout_s,
        )
        folder = WeightFolder(run_dir / "weights", config.name, self.policy.vocab_fingerprint)
        self.publisher = Publisher(folder, run_dir / "checkpoints", gateway)
        self.journal = Journal(gateway, config, run_dir, self.policy.decode_token)
        self.participants: list[Participant] = []

    async def run(self) -> dict[str, Any]:
        """Evaluates, trains, evaluates again.

        Returns the summary that is written beside the report.
        """
        position = await self.publisher.start(self.config, self.learner, self.journal)
        self.progress.start(self.config.steps, position.step)
        before = await self.evaluate("before")
        await self._join(position.step)
        with MetricsLog(self.run_dir, first_step=position.step) as self.metrics:
            await self.config.schedule.drive(
                range(position.step, self.config.steps), self.collect, self.train
            )
        after = await self.evaluate("after")
        summary = self.journal.finish(before, after)
        if after is not None:
            write_report(self.run_dir)
        return summary

    async def _join(self, first_step: int) -> None:
        run = RunContext(
            name=self.config.name,
            seed=self.config.seed,
            run_dir=self.run_dir,
            first_step=first_step,
            gateway=self.labeller.gateway,
            labeller=self.labeller,
            policy=self.policy,
            new_student=lambda: Student(self.policy, self.config.sampler),
            published=lambda: self.publisher.published,
        )
        self.participants = [participant.join(run) for participant in self.config.participants]
        for participant in self.participants:
            await participant.start()

    async def collect(self, step: int) -> Collected:
        """Samples one step's rollouts and has them labelled."""
        timer = PhaseTimer(self.progress)
        published = self.publisher.published
        await self.student.load(published)
        at = StepContext(
            step=step,
            prefix=f"{self.config.name}-{self.publisher.lineage}-{step}",
            weights=published.version,
            student=self.student,
            params=self.config.sampling,
        )
        judged = await self._judge(at, timer)
        with timer.phase("experts"):
            labelled = await self.labeller.targets(judged.attempts)
            for participant in self.participants:
                added = await participant.labelled(at, labelled)
                await self._record([row.attempt.rollout for row in added])
                labelled += added
        with timer.phase("targets"):
            records = tuple(r for row in labelled if (r := row.record()) is not None)
            await self.labeller.gateway.record(Records(targets=records))
        return Collected(at=at, labelled=labelled, judged=judged, seconds=timer.seconds)

    async def _judge(self, at: StepContext, timer: PhaseTimer) -> Judged:
        """Samples rollouts of the step's problems and has them judged."""
        config = self.config
        randomness = generator(config.seed, "rollouts", at.step)

        async def judge(problems: Sequence[Problem], first_group: int) -> list[Attempt]:
            with timer.phase("sampling"):
                rollouts = await self._sample(at, problems, first_group, randomness)
            with timer.phase("feedback"):
                return await self.labeller.feedback(rollouts)

        problems = config.problems(at.step)
        if config.dynamic_sampling is not None:
            return await config.dynamic_sampling.fill(problems, judge)
        return Judged(attempts=await judge(problems, 0), discarded=[], missing_groups=0)

    async def _sample(
        self,
        at: StepContext,
        problems: Sequence[Problem],
        first_group: int,
        randomness: torch.Generator,
    ) -> list[Rollout]:
        """Rollouts as they go to the feedback sources; groups count from `first_group`."""
        config = self.config
        request = RolloutRequest(
            problems=problems,
            payloads=[await self.labeller.put_payload(p.payload) for p in problems],
            num_samples=config.rollouts_per_problem,
            params=config.sampling,
            generator=randomness,
            prefix=f"{at.prefix}-from{first_group}" if first_group else at.prefix,
            step=at.step,
        )
        rollouts = await config.rollout_source(self.student, request)
        if first_group:
            rollouts = [replace(r, group=first_group + r.group) for r in rollouts]
        for participant in self.participants:
            rollouts += await participant.rollouts(at)
        if num_candidates := config.objective.needs.num_candidates:
            rollouts = await self.student.with_candidates(rollouts, num_candidates)
        if any(expert.wants_entropy for expert in config.experts):
            rollouts = await self.student.with_entropy(rollouts)
        await self._record(rollouts)
        return rollouts

    async def _record(self, rollouts: Sequence[Rollout]) -> None:
        if rollouts:
            await self.journal.record_rollouts(rollouts, self.publisher.lineage)

    async def train(self, batch: Collected) -> bool:
        """One optimiser step, published and recorded; False where a participant ends the run."""
        for participant in self.participants:
            if await participant.ends(batch.at, batch.labelled):
                return False
        timer = PhaseTimer(self.progress, dict(batch.seconds))
        step, before = batch.at.step, self.publisher.published.version
        with timer.phase("update"):
            rows = [self._row(row, on_policy=batch.at.weights == before) for row in batch.labelled]
            batches = make_batches(rows, token_budget=self.config.token_budget)
            result = await asyncio.to_thread(self.learner.step, batches, self.config.objective)
        with timer.phase("publish"):
            await self.publisher.publish(step + 1, self.learner, self.config)
            after = self.publisher.published.version
            await self.journal.record_step(step, batch.labelled, result, before, after)
            self.journal.write_worked_rollout(batch.labelled, result)
        metrics = collect_metrics(
            batch.labelled, batch.judged, result, self.labeller, timer.seconds
        )
        self.metrics.write(step, self.publisher.lineage, metrics)
        self.progress.step(metrics)
        self.publisher.checkpoint_if_due(step + 1, self.learner, self.config)
        for participant in self.participants:
            await participant.trained(step)
        return True

    async def evaluate(self, label: str) -> Evaluation | None:
        """The held-out problems with the current version; a finished evaluation is not repeated."""
        if self.config.evaluation is None:
            return None
        path = self.run_dir / "evaluations" / f"{label}.json"
        if path.exists():
            return self._show(label, Evaluation.load(path))
        self.progress.phase("evaluation")
        await self.student.load(self.publisher.published)
        result = await evaluate(
            self.config.evaluation,
            self.student,
            self.labeller,
            weights=self.publisher.published.version,
            seed=self.config.seed,
            on_progress=lambda done, total: self.progress.evaluation(label, done, total),
        )
        result.save(path)
        return self._show(label, result)

    def _show(self, label: str, evaluation: Evaluation) -> Evaluation:
        self.progress.result(label, float(evaluation.successes_PN.mean()))
        return evaluation

    def _row(self, row: Labelled, *, on_policy: bool) -> TrainRollout:
        rollout = row.attempt.rollout
        return TrainRollout(
            rollout_id=rollout.rollout_id,
            group=rollout.group,
            prompt_ids=rollout.prompt_ids,
            response_ids=cast("list[int]", rollout.response_ids.tolist()),
            behaviour_logprobs=None if rollout.given else rollout.behaviour_logprobs,
            owned=rollout.owned,
            target=row.target,
            reward=row.attempt.score,
            on_policy=on_policy and not rollout.given,
            inclusion_probability=row.inclusion_T,
            given=rollout.given,
            uses=row.in_view.uses,
        )
