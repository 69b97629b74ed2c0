"""The loop: sample, feedback, experts, targets, step, publish, record.

    async with GatewayClient(url, key) as gateway:
        await Trainer(config, run_dir, gateway, progress).run()

A trainer that is started again on the same folder continues from the last checkpoint on a new
lineage; the steps that the interrupted one took after it are superseded. The loop names no
expert, source or participant: they come with the configuration, as do the objective and the context
policy.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from preceptor_clients.http.gateway import GatewayClient
from preceptor_trainer.collect.group_state import group_of
from preceptor_trainer.collect.labelling import Labeller
from preceptor_trainer.collect.late_answers import LateAnswers
from preceptor_trainer.collect.participant import RunContext
from preceptor_trainer.collect.prompts import PromptLimit, fitted, limit_of
from preceptor_trainer.collect.self_evaluation import evaluate_own
from preceptor_trainer.collect.student import Student
from preceptor_trainer.evaluation.held_out import Evaluation, EvaluationConfig, evaluate
from preceptor_trainer.kit.allocator import release_freed_memory
from preceptor_trainer.kit.placement import placement
from preceptor_trainer.learner.learner import StepResult
from preceptor_trainer.learner.policy import Policy, WeightFolder
from preceptor_trainer.learner.rounding import Rounding
from preceptor_trainer.model.batch import TrainBatch
from preceptor_trainer.report import write_report
from preceptor_trainer.run.adapter_publishes import adapters_suffice
from preceptor_trainer.run.batching import batches_of, packing_metrics
from preceptor_trainer.run.boards import Board, BoardName, TensorBoard, Tracker
from preceptor_trainer.run.collecting import Collected, Collector
from preceptor_trainer.run.config import RunConfig, describe, rounds_versions
from preceptor_trainer.run.engines import engine_of
from preceptor_trainer.run.evaluations import AFTER, BEFORE, Evaluations
from preceptor_trainer.run.journal import Journal
from preceptor_trainer.run.publishing import Publisher
from preceptor_trainer.run.standing import set_result_aside
from preceptor_trainer.run.streaming import StreamedCollector
from preceptor_trainer.run.watching.metrics_log import MetricsLog
from preceptor_trainer.run.watching.peak_memory import PeakMemory, held_on
from preceptor_trainer.run.watching.phases import PhaseTimer
from preceptor_trainer.run.watching.progress import Progress
from preceptor_trainer.run.watching.step_metrics import collect_metrics
from preceptor_trainer.sampling.params import SamplingParams


class Trainer:
    """One lineage of a run; `may_grow` where it was begun with fewer steps and is extended."""

    def __init__(
        self,
        config: RunConfig,
        run_dir: Path,
        gateway: GatewayClient,
        progress: Progress,
        *,
        may_grow: bool = False,
    ) -> None:
        torch.set_num_threads(config.threads)
        self.config = config
        self.run_dir = run_dir
        self.progress = progress
        place = placement(device=config.device, dtype=config.dtype)
        self._is_between_steps = False
        self.peaks = PeakMemory(held_on(place.device))
        self.policy = Policy(
            config.model,
            place,
            chat_template_kwargs=config.chat_template_kwargs,
            packing=config.packing,
        )
        self.learner = engine_of(config, self.policy, place, run_dir)
        dialogue = config.dialogue
        self.environment = (
            None if dialogue is None else dialogue.environment.connect(gateway, config.name)
        )
        self.student = self._new_student()
        self.publisher = self._new_publisher(gateway)
        self.labeller = Labeller(
            gateway=gateway,
            run=config.name,
            task=config.task,
            experts=config.experts,
            context=config.context,
            vocab_fingerprint=self.policy.vocab_fingerprint,
            batching=config.schedule.batching,
            timeout_s=config.timeout_s,
            own_judges={
                own.name: partial(evaluate_own, own, self.student)
                for own in config.self_evaluations
            },
            known=self.publisher.known,
        )
        self.journal = Journal(
            gateway, config, run_dir, self.policy.decode_token, may_grow=may_grow
        )
        self.evaluations = Evaluations(
            run_dir, config.steps, config.evaluation.ks if config.evaluation else (1,)
        )
        self.collector = self._new_collector()

    def _new_publisher(self, gateway: GatewayClient) -> Publisher:
        config, rounding = self.config, None
        model_config: Any = copy.deepcopy(cast(Any, self.policy.model).config)
        if rounds_versions(config):
            # Passes in bfloat16 round to the nearest themselves.
            rounding = Rounding(seed=config.seed, by_chance=config.dtype == "float32")
            model_config.dtype = torch.bfloat16
        folder = WeightFolder(
            self.run_dir / "weights",
            config.name,
            self.policy.vocab_fingerprint,
            source=self.policy.folder,
            config=model_config,
            scratch=config.scratch,
        )
        return Publisher(folder, self.run_dir, gateway, rounding=rounding)

    def _new_student(self) -> Student:
        return Student(
            self.policy,
            self.config.sampler,
            dialogue=self.config.dialogue,
            environment=self.environment,
        )

    def _new_collector(self) -> Collector:
        parts: dict[str, Any] = {
            "config": self.config,
            "student": self.student,
            "labeller": self.labeller,
            "publisher": self.publisher,
            "journal": self.journal,
            "progress": self.progress,
            "peaks": self.peaks,
            "prompt_limit": self._prompt_limit(self.config.sampling),
        }
        overlapped = self.config.schedule.overlapped
        if overlapped is None:
            return Collector(**parts)
        late = LateAnswers(
            labeller=self.labeller,
            deadline_s=overlapped.deadline_s,
            join_within=overlapped.join_within,
        )
        return StreamedCollector(**parts, late=late)

    def _prompt_limit(self, sampling: SamplingParams) -> PromptLimit | None:
        return limit_of(
            self.policy.max_positions,
            max_prompt=self.config.max_prompt,
            max_new_tokens=sampling.max_new_tokens,
            when_longer=self.config.long_prompts,
        )

    async def run(self) -> dict[str, Any]:
        """Evaluates, trains, evaluates again.

        Returns the summary that is written beside the report.
        """
        try:
            with self.peaks:
                return await self._run()
        except asyncio.CancelledError:
            if self._is_between_steps:
                await self.publisher.keep_step(self.learner, self.config)
            raise
        finally:
            await self.close()

    async def close(self) -> None:
        """Ends what the run started: questions that nobody waits for, engine and environment."""
        await self.collector.close()
        await self.publisher.close()
        await asyncio.to_thread(self.learner.close)
        if self.environment is not None:
            await self.environment.close()

    async def _run(self) -> dict[str, Any]:
        position = await self.publisher.start(
            self.config,
            self.learner,
            self.journal,
            adapters=await adapters_suffice(self.config, self.labeller.gateway, self.student),
        )
        self.collector.restore(
            [group_of(state, self.config.task) for state in self.publisher.unused]
        )
        self._is_between_steps = True
        set_result_aside(self.run_dir, self.config.steps)
        self.progress.start(self.config.steps, position.step)
        self.evaluations.forget_from(position.step)
        before = await self.evaluate(BEFORE)
        await self._join(position.step)
        boards = [partial(self._board, name, position.step) for name in self.config.log]
        first_step = position.step
        with MetricsLog(self.run_dir, first_step=first_step, boards=boards) as self.metrics:
            self._show_in_board(position.step, before if position.step == 0 else None)
            await self.config.schedule.drive(
                range(position.step, self.config.steps), self.collector.collect, self.train
            )
            after = await self.evaluate(AFTER)
            self._show_in_board(self.config.steps, after)
        await self.student.wake()
        await self.publisher.finish()
        summary = self.journal.finish(before, after, self.evaluations, self.peaks.most)
        if after is not None:
            write_report(self.run_dir)
        return summary

    def _board(self, name: BoardName, first_step: int) -> Board:
        if name == "tensorboard":
            return TensorBoard(self.run_dir, first_step)
        return Tracker(name, self.run_dir, self.config.name, describe(self.config))

    def _show_in_board(self, num_steps: int, result: Evaluation | None) -> None:
        if result is not None and self.config.evaluation is not None:
            self.metrics.evaluation(num_steps, result.mean_pass_at(self.config.evaluation.ks))

    async def _join(self, first_step: int) -> None:
        run = RunContext(
            name=self.config.name,
            seed=self.config.seed,
            run_dir=self.run_dir,
            first_step=first_step,
            gateway=self.labeller.gateway,
            labeller=self.labeller,
            policy=self.policy,
            new_student=self._new_student,
            published=lambda: self.publisher.published,
        )
        joined = [participant.join(run) for participant in self.config.participants]
        self.collector.participants = joined
        for participant in joined:
            await participant.start()

    async def train(self, batch: Collected) -> bool:
        """One optimiser step, published and recorded; False where a participant ends the run."""
        for participant in self.collector.participants:
            if await participant.ends(batch.at, batch.labelled):
                self._is_between_steps = False
                await self.publisher.write_last(self.learner)
                self._is_between_steps = True
                return False
        timer = PhaseTimer(self.progress, self.peaks, dict(batch.seconds))
        step, before = batch.at.step, self.publisher.published.version
        if self.student.sleeps:
            with timer.phase("sleep"):
                await self.student.sleep()
        # Until the step is recorded: the weights are not those of a version meanwhile.
        self._is_between_steps = False
        with timer.phase("update"):
            rows = [
                row.train_rollout(on_policy=row.attempt.rollout.weights == before)
                for row in batch.labelled
            ]
            batches = batches_of(rows, self.config)
            result = await asyncio.to_thread(self._step, batches)
        with timer.phase("publish"):
            await self.publisher.publish(step + 1, self.learner, self.config)
            after = self.publisher.published.version
            await self.journal.record_step(
                step, batch.labelled, result, before, after, timer.seconds
            )
            self.journal.write_worked_rollout(batch.labelled, result)
        metrics = collect_metrics(
            batch.labelled, batch.judged, result, self.labeller, timer.seconds
        )
        metrics |= batch.prompts | batch.failed | batch.late
        metrics |= packing_metrics(batches, self.policy, self.config)
        metrics |= self.publisher.metrics()
        for participant in self.collector.participants:
            metrics |= participant.metrics(step)
        self.metrics.write(step, self.publisher.lineage, metrics)
        self.progress.step(metrics)
        unused = self.collector.unused(step + 1)
        await self.publisher.checkpoint_if_due(step + 1, self.learner, self.config, unused)
        self._is_between_steps = True
        self.collector.trained(step)
        await self._evaluate_between(step + 1)
        for participant in self.collector.participants:
            await participant.trained(step)
        return True

    def _step(self, batches: Sequence[TrainBatch]) -> StepResult:
        try:
            return self.learner.step(batches, self.config.objective)
        finally:
            release_freed_memory()

    async def _evaluate_between(self, step: int) -> None:
        evaluation = self.config.evaluation
        if evaluation is not None and evaluation.is_due(step) and step < self.config.steps:
            self._show_in_board(step, await self.evaluate(f"step-{step}"))

    async def evaluate(self, label: str) -> Evaluation | None:
        """The held-out problems with the current version; a finished evaluation is not repeated."""
        if self.config.evaluation is None:
            return None
        if (finished := self.evaluations.load(label)) is not None:
            return self._show(label, finished)
        # An overlapped schedule collects while a step is evaluated; both use the one student.
        async with self.collector.student_is_free:
            self.progress.phase("evaluation")
            with self.peaks.during("evaluation"):
                result = await self._evaluated(label, self.config.evaluation)
        self.evaluations.save(label, result)
        await asyncio.to_thread(release_freed_memory)
        return self._show(label, result)

    async def _evaluated(self, label: str, evaluation: EvaluationConfig) -> Evaluation:
        await self.student.load(self.publisher.published)
        return await evaluate(
            self._fitting(evaluation),
            self.student,
            self.labeller,
            weights=self.publisher.published.version,
            seed=self.config.seed,
            on_progress=lambda done, total: self.progress.evaluation(label, done, total),
        )

    def _fitting(self, evaluation: EvaluationConfig) -> EvaluationConfig:
        """The evaluation with the problems whose prompts fit."""
        limit = self._prompt_limit(evaluation.sampling)
        fit = fitted(evaluation.problems, self.student.chat_ids, limit)
        if limit is not None and fit.metrics:
            self.progress.message(
                f"evaluation: of {len(evaluation.problems)} prompts, {fit.num_skipped} are left "
                f"out and {fit.num_cut} cut, at {limit.max_tokens} tokens"
            )
        return replace(evaluation, problems=fit.problems)

    def _show(self, label: str, evaluation: Evaluation) -> Evaluation:
        self.progress.result(label, evaluation.solved_share, evaluation.num_ungraded)
        return evaluation
