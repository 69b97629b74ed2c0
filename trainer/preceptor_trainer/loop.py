"""The loop: sample, feedback, experts, targets, step, publish, record.

    async with GatewayClient(url, key) as gateway:
        await Trainer(config, run_dir, gateway, progress).run()

A trainer that is started again on the same folder continues from the last checkpoint on a new
lineage; the steps that the interrupted one took after it are superseded. Nothing in here knows who
answers: experts, sources, the objective and the context policy come with the configuration.
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
from preceptor_clients.targets.spelling import TokenizerSpelling
from preceptor_trainer.collect.dynamic_sampling import Judged
from preceptor_trainer.collect.labelling import Asker, Labelled
from preceptor_trainer.collect.people.people import People
from preceptor_trainer.collect.rollouts import Attempt, Problem, Rollout
from preceptor_trainer.collect.sampler import SamplerStage
from preceptor_trainer.evaluation.held_out import Evaluation, evaluate
from preceptor_trainer.kit.seeding import generator
from preceptor_trainer.learner.learner import Learner
from preceptor_trainer.learner.policy import Policy, WeightFolder
from preceptor_trainer.model.batch import TrainRollout, make_batches
from preceptor_trainer.run.config import RunConfig
from preceptor_trainer.run.journal import Journal
from preceptor_trainer.run.metrics_log import MetricsLog
from preceptor_trainer.run.progress import Progress
from preceptor_trainer.run.publishing import Publisher
from preceptor_trainer.run.step_metrics import collect_metrics


@dataclass(frozen=True, kw_only=True, eq=False)
class Collected:
    """One step's labelled rollouts, ready to train on."""

    step: int
    labelled: Sequence[Labelled]
    judged: Judged
    weights: str
    seconds: dict[str, float]


@dataclass
class Clock:
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
    """One life of a run."""

    def __init__(
        self, config: RunConfig, run_dir: Path, gateway: GatewayClient, progress: Progress
    ) -> None:
        torch.set_num_threads(config.threads)
        self.config = config
        self.run_dir = run_dir
        self.progress = progress
        self.policy = Policy(config.model)
        self.learner = Learner(self.policy.model, config.optimiser, trunk=self.policy.trunk)
        self.sampler = SamplerStage(self.policy)
        self.asker = Asker(
            gateway=gateway,
            run=config.name,
            sources=config.sources,
            experts=config.experts,
            context=config.context,
            vocab_fingerprint=self.policy.vocab_fingerprint,
            batching=config.schedule.batching,
            timeout_s=config.timeout_s,
        )
        self.people = (
            People(
                config=config.people,
                gateway=gateway,
                asker=self.asker,
                run=config.name,
                seed=config.seed,
                spelling=TokenizerSpelling.of(self.policy.tokenizer),
                vocab_fingerprint=self.policy.vocab_fingerprint,
            )
            if config.people is not None
            else None
        )
        folder = WeightFolder(run_dir / "weights", config.name, self.policy.vocab_fingerprint)
        self.publisher = Publisher(folder, run_dir / "checkpoints", gateway)
        self.journal = Journal(gateway, config, run_dir, self.policy.decode_token)

    async def run(self) -> dict[str, Any]:
        """Evaluates, trains, evaluates again.

        Returns the summary that is written beside the report.
        """
        position = await self.publisher.start(self.config, self.learner, self.journal)
        self.progress.start(self.config.steps, position.step)
        before = await self.evaluate("before")
        with MetricsLog(self.run_dir, first_step=position.step) as self.metrics:
            await self.config.schedule.drive(
                range(position.step, self.config.steps), self.collect, self.train
            )
        after = await self.evaluate("after")
        return self.journal.finish(before, after)

    async def collect(self, step: int) -> Collected:
        """Samples one step's rollouts and has them labelled."""
        clock = Clock(self.progress)
        published = self.publisher.published
        judged = await self._judge(step, clock)
        with clock.phase("experts"):
            labelled = await self.asker.targets(judged.attempts)
            if self.people is not None:
                labelled += await self._by_people(self.people, step, labelled)
        with clock.phase("targets"):
            records = tuple(r for row in labelled if (r := row.record()) is not None)
            await self.asker.gateway.record(Records(targets=records))
        return Collected(
            step=step,
            labelled=labelled,
            judged=judged,
            weights=published.version,
            seconds=clock.seconds,
        )

    async def _judge(self, step: int, clock: Clock) -> Judged:
        """Samples rollouts of the step's problems and has them judged."""
        config = self.config
        randomness = generator(config.seed, "rollouts", step)
        self.sampler.load(self.publisher.published)

        async def judge(problems: Sequence[Problem], first_group: int) -> list[Attempt]:
            with clock.phase("sampling"):
                rollouts = await self._sample(step, problems, first_group, randomness)
            with clock.phase("feedback"):
                return await self.asker.feedback(rollouts)

        problems = config.problems(step)
        if config.dynamic_sampling is not None:
            return await config.dynamic_sampling.fill(problems, judge)
        return Judged(attempts=await judge(problems, 0), discarded=[], missing_groups=0)

    async def _sample(
        self, step: int, problems: Sequence[Problem], first_group: int, randomness: torch.Generator
    ) -> list[Rollout]:
        """Rollouts as they go to the feedback sources; groups count from `first_group`."""
        config, prefix = self.config, f"{self.config.name}-{self.publisher.lineage}-{step}"
        payloads = [await self.asker.put_payload(p.payload) for p in problems]
        rollouts = await asyncio.to_thread(
            config.source,
            self.sampler,
            problems,
            payloads,
            num_samples=config.rollouts_per_problem,
            params=config.sampling,
            generator=randomness,
            prefix=f"{prefix}-from{first_group}" if first_group else prefix,
            step=step,
        )
        if first_group:
            rollouts = [replace(r, group=first_group + r.group) for r in rollouts]
        if self.people is not None:
            rollouts += await asyncio.to_thread(
                self.people.roll_on, self.sampler, step, prefix=prefix, params=config.sampling
            )
        if num_candidates := config.objective.needs.num_candidates:
            rollouts = await asyncio.to_thread(
                self.sampler.with_candidates, rollouts, num_candidates
            )
        if any(expert.wants_entropy for expert in config.experts):
            rollouts = await asyncio.to_thread(self.sampler.with_entropy, rollouts)
        await self.journal.record_rollouts(rollouts, self.publisher.lineage)
        return rollouts

    async def _by_people(
        self, people: People, step: int, labelled: Sequence[Labelled]
    ) -> list[Labelled]:
        """What has come of corrections, as rollouts of this step; some of its own go to people."""
        lineage = self.publisher.lineage
        rows = await people.step(
            step,
            labelled,
            prefix=f"{self.config.name}-{lineage}-{step}",
            weights=self.publisher.published.version,
        )
        await self.journal.record_rollouts([row.attempt.rollout for row in rows], lineage)
        return rows

    async def train(self, batch: Collected) -> None:
        """One optimiser step, published and recorded."""
        clock = Clock(self.progress, dict(batch.seconds))
        before = self.publisher.published.version
        with clock.phase("update"):
            rows = [self._row(row, on_policy=batch.weights == before) for row in batch.labelled]
            batches = make_batches(rows, token_budget=self.config.token_budget)
            result = await asyncio.to_thread(self.learner.step, batches, self.config.objective)
        with clock.phase("publish"):
            await self.publisher.publish(batch.step + 1, self.learner, self.config)
            after = self.publisher.published.version
            await self.journal.record_step(batch.step, batch.labelled, result, before, after)
            self.journal.write_worked_rollout(batch.labelled, result)
        metrics = collect_metrics(batch.labelled, batch.judged, result, self.asker, clock.seconds)
        self.metrics.write(batch.step, self.publisher.lineage, metrics)
        self.progress.step(metrics)
        self.publisher.checkpoint_if_due(batch.step + 1, self.learner, self.config)

    async def evaluate(self, label: str) -> Evaluation:
        """The held-out problems with the current version; a finished evaluation is not repeated."""
        path = self.run_dir / "evaluations" / f"{label}.json"
        if path.exists():
            return self._show(label, Evaluation.load(path))
        self.progress.phase("evaluation")
        self.sampler.load(self.publisher.published)
        result = await evaluate(
            self.config.evaluation,
            self.sampler,
            self.asker,
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
